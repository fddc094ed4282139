"""Every loss, by the name that the registry knows it by."""

from mml_plugin.losses.bands import BandCounter
from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.bilateral_softmax import BilateralSoftmaxLoss
from mml_plugin.losses.contrastive import ContrastiveLoss
from mml_plugin.losses.cosine_contrastive import CosineContrastiveLoss
from mml_plugin.losses.functional import multi_margin_loss
from mml_plugin.losses.generalized_contrastive import GeneralizedContrastiveLoss
from mml_plugin.losses.info_nce import InfoNCELoss
from mml_plugin.losses.multi_margin import MultiMarginLoss
from mml_plugin.losses.pairwise import PairwiseLogisticLoss, PairwiseMarginLoss
from mml_plugin.losses.pointwise import MSELoss, SigmoidCrossEntropyLoss, SoftmaxCrossEntropyLoss
from mml_plugin.losses.triplet import TripletLoss

__all__ = [
    "BandCounter",
    "BilateralSoftmaxLoss",
    "ContrastiveLoss",
    "CosineContrastiveLoss",
    "GeneralizedContrastiveLoss",
    "InfoNCELoss",
    "MSELoss",
    "MultiMarginLoss",
    "PairwiseLogisticLoss",
    "PairwiseMarginLoss",
    "SampledLoss",
    "SigmoidCrossEntropyLoss",
    "SoftmaxCrossEntropyLoss",
    "TripletLoss",
    "multi_margin_loss",
]
