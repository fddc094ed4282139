# Matrix factorisation in the way that reczoo's own scripts define it; it passes loss keys on and reads none of them.
import torch
from recbox.matching.pytorch.layers import EmbeddingLayer
from recbox.matching.pytorch.models import MatchingModel
from torch import nn
from torch.nn.functional import normalize


class MF(MatchingModel):
    def __init__(
        self,
        feature_map,
        model_id="MF",
        gpu=-1,
        learning_rate=1e-3,
        embedding_initializer="lambda w: nn.init.normal_(w, std=1e-4)",
        embedding_dim=10,
        num_negs=1,
        regularizer=None,
        embedding_dropout=0,
        similarity_score="dot",
        **kwargs,
    ):
        super().__init__(
            feature_map,
            model_id=model_id,
            gpu=gpu,
            embedding_regularizer=regularizer,
            num_negs=num_negs,
            embedding_initializer=embedding_initializer,
            **kwargs,
        )
        self.cosine = similarity_score == "cosine"
        self.embedding_layer = EmbeddingLayer(feature_map, embedding_dim)
        self.dropout = nn.Dropout(embedding_dropout)
        self.compile(lr=learning_rate, **kwargs)

    def forward(self, inputs):
        users, items, labels = inputs[:3]
        user = self.dropout(self.user_tower(users))
        item = self.item_tower(items).view(user.size(0), self.num_negs + 1, -1)
        y_pred = torch.bmm(item, user.unsqueeze(-1)).squeeze(-1)
        return {"loss": self.get_total_loss(y_pred, labels), "y_pred": y_pred}

    def user_tower(self, inputs):
        return self.tower(inputs, "user")

    def item_tower(self, inputs):
        return self.tower(inputs, "item")

    def tower(self, inputs, source):
        vectors = self.embedding_layer(self.to_device(inputs), feature_source=source)
        return normalize(vectors) if self.cosine else vectors
