"""Which losses there are, what they are called, and what they may be given."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from mml_plugin import losses
from mml_plugin.errors import UserError, nearest
from mml_plugin.losses.checks import as_list

REQUIRED = object()


@dataclass(frozen=True, eq=False)
class Parameter:
    """One hyper-parameter of a loss, which is also a configuration key.

    Attributes:
        name: as the loss's constructor and the YAML call it.
        type: what pydantic checks and converts to (``"1e-1"`` becomes 0.1).
        allowed: type and range in words.
        element: the same for one element, where it is a list.
        default: ``REQUIRED`` when it must be given.
    """

    name: str
    type: Any
    allowed: str
    default: Any = REQUIRED
    element: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED


@dataclass(frozen=True, eq=False)
class Alias:
    """Another name for a loss, with the keys and values that go with that name.

    Attributes:
        name: the other name.
        keys: its key -> our parameter, where they differ.
        values: (our parameter, its value) -> our value, where they differ; each use is logged.
    """

    name: str
    keys: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[tuple[str, Any], Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LossSpec:
    """A registered loss.

    Attributes:
        name: canonical name; its class has the same one.
        cls: the module's class.
        parameters: what its constructor takes.
        aliases: other names.
        equation: plain-text formula; p is the positive's score, n_j the negatives', N their number.
        source: where it comes from.
        margins: the parameter that holds its margins on similarities, for band counts; "" when it has none.
    """

    name: str
    cls: type[losses.SampledLoss]
    equation: str
    source: str
    parameters: tuple[Parameter, ...] = ()
    aliases: tuple[Alias, ...] = ()
    margins: str = ""

    def alias(self, name: str) -> Alias:
        """The alias of that name, or one without renamed keys for the canonical name."""
        return next((a for a in self.aliases if a.name.lower() == name.lower()), Alias(self.name))

    def keys(self, name: str) -> dict[str, str]:
        """Every key that may be given under ``name`` -> our parameter (our own keys work everywhere)."""
        return {p.name: p.name for p in self.parameters} | dict(self.alias(name).keys)


Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Margins = Annotated[list[Finite], BeforeValidator(as_list)]
MarginWeights = Annotated[list[NotNegative], BeforeValidator(as_list)]

AUTHOR_KEYS = {"margin_values_list": "margins", "negative_weights_list": "margin_weights"}

SPECS = (
    LossSpec(
        "MultiMarginLoss",
        losses.MultiMarginLoss,
        "w_p max(0, 1-p) + w_n/N sum_j sum_k w_k max(0, n_j - m_k)",
        "Multi-Margin Loss, Eq. 7",
        (
            Parameter("margins", Margins, "a list of finite numbers, any order", element="a finite number"),
            Parameter(
                "margin_weights",
                MarginWeights,
                "a list of numbers >= 0, as long as margins, not all 0",
                element="a number >= 0",
            ),
            Parameter("neg_weight", Positive, "a number > 0"),
            Parameter("pos_weight", NotNegative, "a number >= 0", 1.0),
        ),
        (Alias("MML"), Alias("MultiCosineContrastiveLoss", AUTHOR_KEYS), Alias("MMCL", AUTHOR_KEYS)),
        margins="margins",
    ),
    LossSpec(
        "CosineContrastiveLoss",
        losses.CosineContrastiveLoss,
        "max(0, 1-p) + w/N sum_j max(0, n_j - m)",
        "SimpleX (Mao et al. 2021); Eq. 2; recbox's class of the same name",
        (
            Parameter("margin", Finite, "a finite number", 0.0),
            Parameter("negative_weight", NotNegative | None, "a number > 0; None or 0 sums with weight 1", None),
        ),
        (Alias("CCL"),),
        margins="margin",
    ),
    LossSpec(
        "ContrastiveLoss",
        losses.ContrastiveLoss,
        "1/2 [d_p^2 + 1/N sum_j max(0, m - d_j)^2],  d^2 = max(0, 2-2s)",
        "Chopra et al. 2005; Eq. 1",
        (Parameter("margin", Positive, "a number > 0 (a distance)", 1.0),),
        (Alias("Contrastive"),),
    ),
    LossSpec(
        "TripletLoss",
        losses.TripletLoss,
        "1/N sum_j max(0, d_p^2 - d_j^2 + m),  d^2 = max(0, 2-2s)",
        "FaceNet (Schroff et al. 2015); Eq. 3",
        (Parameter("margin", NotNegative, "a number >= 0 (a difference of squared distances)", 0.2),),
        (Alias("Triplet"),),
    ),
    LossSpec(
        "InfoNCELoss",
        losses.InfoNCELoss,
        "-log( e^(p/t) / (e^(p/t) + sum_j e^(n_j/t)) )",
        "van den Oord et al. 2018; Eq. 4 at t = 1",
        (Parameter("temperature", Positive, "a number > 0", 1.0),),
        (Alias("InfoNCE"),),
    ),
    LossSpec(
        "BilateralSoftmaxLoss",
        losses.BilateralSoftmaxLoss,
        "-log E_u[e^(p/t1)] + t2 log mean_j e^(n_j/t1)",
        "BSL (Wu et al. 2024), as its authors' code computes it; Eq. 5",
        (
            Parameter("temperature", Positive, "a number > 0 (tau_1)"),
            Parameter("temperature2", Positive, "a number > 0 (tau_2)", 1.0),
            Parameter("mode", str, "multi, single, reweight or author_port", "multi"),
        ),
        (Alias("BSL"), Alias("BSLLoss", values={("mode", "multi"): "author_port"})),
    ),
    LossSpec(
        "GeneralizedContrastiveLoss",
        losses.GeneralizedContrastiveLoss,
        "w_p f(u,i) + w_n/N sum_j max(0, f(u,i,j,m))",
        "Multi-Margin Loss, Eq. 6",
        (
            Parameter("f", str, "ccl, contrastive, triplet or infonce"),
            Parameter("margin", Finite | None, "a finite number, or None for the loss's own", None),
            Parameter("pos_weight", NotNegative, "a number >= 0", 1.0),
            Parameter("neg_weight", Positive, "a number > 0", 1.0),
        ),
    ),
    LossSpec(
        "PairwiseLogisticLoss",
        losses.PairwiseLogisticLoss,
        "1/N sum_j -log sigmoid(p - n_j)",
        "BPR (Rendle et al. 2009); recbox's class of the same name",
        aliases=(Alias("BPR"),),
    ),
    LossSpec(
        "PairwiseMarginLoss",
        losses.PairwiseMarginLoss,
        "1/N sum_j max(0, m + n_j - p)",
        "pairwise hinge; recbox's class of the same name",
        (Parameter("margin", Finite, "a finite number", 1.0),),
        (Alias("Hinge"),),
    ),
    LossSpec(
        "SoftmaxCrossEntropyLoss",
        losses.SoftmaxCrossEntropyLoss,
        "-log softmax(p, n_1 .. n_N)_p",
        "sampled softmax; recbox's class of the same name",
        aliases=(Alias("Softmax"),),
    ),
    LossSpec(
        "SigmoidCrossEntropyLoss",
        losses.SigmoidCrossEntropyLoss,
        "sum over the batch of binary cross entropy on logits",
        "recbox's class of the same name",
        aliases=(Alias("BCE"),),
    ),
    LossSpec(
        "MSELoss",
        losses.MSELoss,
        "1/2 (p-1)^2 + 1/2 sum_j n_j^2",
        "recbox's class of the same name",
        aliases=(Alias("MSE"),),
    ),
)

_BY_NAME = {name.lower(): spec for spec in SPECS for name in (spec.name, *(a.name for a in spec.aliases))}


def available_losses() -> tuple[LossSpec, ...]:
    """Every registered loss."""
    return SPECS


def is_known(name: object) -> bool:
    """Whether ``name`` is a registered loss or an alias of one (upper and lower case are the same)."""
    return isinstance(name, str) and name.lower() in _BY_NAME


def get_spec(name: str) -> LossSpec:
    """The loss of that name or alias.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    if not is_known(name):
        known = [n for spec in SPECS for n in (spec.name, *(a.name for a in spec.aliases))]
        raise UserError(f"there is no loss {name!r}; {nearest(str(name), known)}")
    return _BY_NAME[name.lower()]


def loss_keys(name: str) -> frozenset[str]:
    """Every configuration key that the loss reads under that name."""
    return frozenset(get_spec(name).keys(name))


def all_loss_keys() -> frozenset[str]:
    """Every configuration key that some loss reads."""
    names = [n for spec in SPECS for n in (spec.name, *(a.name for a in spec.aliases))]
    return frozenset().union(*(loss_keys(n) for n in names))


@cache
def _model(spec: LossSpec) -> type[BaseModel]:
    fields: dict[str, Any] = {p.name: (p.type, ... if p.required else p.default) for p in spec.parameters}
    return create_model(spec.name, __config__=ConfigDict(extra="forbid", frozen=True), **fields)


def check_params(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Translate an alias's keys and values, check them, convert them and fill in the defaults.

    Args:
        name: a loss or an alias.
        given: parameters by that name's keys, or by ours.

    Raises:
        UserError: for an unknown key (with the nearest), a missing one, a value out of type or range,
            a parameter given under both its names; the sentence names the key and the value.
    """
    spec = get_spec(name)
    keys = spec.keys(name)
    params: dict[str, Any] = {}
    shown: dict[str, str] = {}
    for key, value in given.items():
        if key not in keys:
            raise UserError(f"{spec.name} has no parameter {key!r}; {nearest(key, keys)}")
        ours = keys[key]
        if ours in params:
            raise UserError(f"{spec.name} is given {ours} twice, as {shown[ours]!r} and as {key!r}")
        _refuse_booleans(spec, key, value)
        params[ours], shown[ours] = _translated(spec, name, ours, value), key
    try:
        checked = _model(spec)(**params).model_dump()
    except ValidationError as error:
        raise UserError(_sentence(spec, error, params, shown, keys)) from None
    spec.cls(**_quiet(spec, checked))
    return checked


def _quiet(spec: LossSpec, params: dict[str, Any]) -> dict[str, Any]:
    # Checks across parameters live in the constructor; CCL's warning belongs to the real construction.
    return {**params, "negative_weight": 1.0} if spec.cls is losses.CosineContrastiveLoss else params


def _refuse_booleans(spec: LossSpec, key: str, value: Any) -> None:
    inner = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(v, bool) for v in inner):
        raise UserError(f"{spec.name}: {key} must be numbers, got {value!r}")


def _translated(spec: LossSpec, name: str, parameter: str, value: Any) -> Any:
    values = spec.alias(name).values
    if isinstance(value, str) and (parameter, value) in values:
        ours = values[parameter, value]
        logging.info("%s: %s %r means %s of %s", name, parameter, value, ours, spec.name)
        return ours
    return value


def _sentence(
    spec: LossSpec,
    error: ValidationError,
    params: dict[str, Any],
    shown: dict[str, str],
    keys: dict[str, str],
) -> str:
    first = error.errors()[0]
    parameter = next(p for p in spec.parameters if p.name == first["loc"][0])
    if first["type"] == "missing":
        key = next((k for k, ours in keys.items() if ours == parameter.name and k != ours), parameter.name)
        return f"{spec.name} needs {key}: {parameter.allowed}"
    where = "".join(f"[{i}]" for i in first["loc"][1:] if isinstance(i, int))
    value = first["input"] if where else params[parameter.name]
    allowed = parameter.element if where else parameter.allowed
    return f"{spec.name}: {shown[parameter.name]}{where} must be {allowed}, got {value!r}"


def params_from_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The loss's parameters out of a flat reczoo configuration; other keys are left alone.

    Raises:
        UserError: as :func:`check_params`.
    """
    keys = get_spec(name).keys(name)
    return check_params(name, {key: config[key] for key in keys if key in config})


def build_loss(name: str, **params: Any) -> losses.SampledLoss:
    """Make a loss by name.

    Args:
        name: canonical or alias (``"MML"``, ``"MultiCosineContrastiveLoss"``, ...).
        **params: its parameters, by the keys that go with the name.

    Raises:
        UserError: for an unknown name or key and for a value out of type or range.

    Example:
        >>> build_loss("MultiMarginLoss", margins=[0.6, 0.9], margin_weights=[0.2, 0.8], neg_weight=400)
        MultiMarginLoss(pos_weight=1.0, neg_weight=400.0, margins=(0.6, 0.9), margin_weights=(0.2, 0.8))
    """
    return get_spec(name).cls(**check_params(name, params))


def margins_of(name: str, config: Mapping[str, Any]) -> tuple[float, ...]:
    """The rising margins with a positive weight of a loss with margins on similarities; () for any other.

    They are the thresholds between its bands: below the first, a negative has no gradient.
    """
    spec = get_spec(name)
    if not spec.margins:
        return ()
    params = params_from_config(name, config)
    if spec.margins == "margin":
        return (params["margin"],)
    return tuple(sorted({m for m, w in zip(params["margins"], params["margin_weights"]) if w > 0}))
