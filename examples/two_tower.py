"""A two-tower model in plain PyTorch: one line of it is the loss. Needs torch and mml_plugin.losses alone."""

import torch
from torch.nn.functional import normalize

from mml_plugin.losses import MultiMarginLoss

torch.manual_seed(0)
groups = 8  # users of a group like the items of that group
user_group, item_group = torch.arange(200) % groups, torch.arange(300) % groups
user_tower = torch.nn.Embedding(200, 16)
item_tower = torch.nn.Embedding(300, 16)
loss = MultiMarginLoss(margins=[0.2, 0.4, 0.6], margin_weights=[0.1, 0.3, 0.6], neg_weight=20)
optimizer = torch.optim.Adam([*user_tower.parameters(), *item_tower.parameters()], lr=0.02)


def precision_at_10() -> float:
    scores = normalize(user_tower.weight) @ normalize(item_tower.weight).T
    best = scores.topk(10).indices
    return (item_group[best] == user_group[:, None]).float().mean().item()


print(f"before: {precision_at_10():.2f} of the ten best items are of the user's group")
for _ in range(200):
    users = torch.randint(200, (128,))
    positives = torch.randint(300 // groups, (128,)) * groups + user_group[users]
    negatives = torch.randint(300, (128, 30))
    items = torch.cat([positives[:, None], negatives], dim=1)  # [B, 1+N], the positive first
    u, i = normalize(user_tower(users)), normalize(item_tower(items), dim=-1)
    value = loss(torch.einsum("bd,bnd->bn", u, i))
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
print(f"after: {precision_at_10():.2f}")
