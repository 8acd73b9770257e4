"""The names that Keras knows, and the arguments that each takes.

A table rather than a look into Keras, since the launcher never imports it; a test holds it against the installed
Keras. Left out is what a job file cannot use: base classes and wrappers.
In a table's text, `!` marks an argument that must be given; the arguments that a whole family shares are apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_OPTIMIZERS: Mapping[str, str] = {
    "Adadelta": "learning_rate rho epsilon",
    "Adafactor": "learning_rate beta_2_decay epsilon_1 epsilon_2 clip_threshold relative_step",
    "Adagrad": "learning_rate initial_accumulator_value epsilon",
    "Adam": "learning_rate beta_1 beta_2 epsilon amsgrad",
    "AdamW": "learning_rate beta_1 beta_2 epsilon amsgrad",
    "Adamax": "learning_rate beta_1 beta_2 epsilon",
    "Ftrl": (
        "learning_rate learning_rate_power initial_accumulator_value l1_regularization_strength "
        "l2_regularization_strength l2_shrinkage_regularization_strength beta"
    ),
    "Lamb": "learning_rate beta_1 beta_2 epsilon",
    "Lion": "learning_rate beta_1 beta_2",
    "Muon": (
        "learning_rate adam_beta_1 adam_beta_2 adam_weight_decay epsilon exclude_layers exclude_embeddings muon_a "
        "muon_b muon_c adam_lr_ratio momentum ns_steps nesterov rms_rate"
    ),
    "Nadam": "learning_rate beta_1 beta_2 epsilon",
    "RMSprop": "learning_rate rho momentum epsilon centered",
    "SGD": "learning_rate momentum nesterov",
    "ScheduleFreeAdamW": "learning_rate beta_1 beta_2 epsilon warmup_steps",
}

_LOSSES: Mapping[str, str] = {
    "BinaryCrossentropy": "from_logits label_smoothing axis",
    "BinaryFocalCrossentropy": "apply_class_balancing alpha gamma from_logits label_smoothing axis",
    "CTC": "",
    "CategoricalCrossentropy": "from_logits label_smoothing axis",
    "CategoricalFocalCrossentropy": "alpha gamma from_logits label_smoothing axis",
    "CategoricalGeneralizedCrossEntropy": "q",
    "CategoricalHinge": "",
    "Circle": "gamma margin remove_diagonal",
    "CosineSimilarity": "axis",
    "Dice": "axis",
    "Hinge": "",
    "Huber": "delta",
    "KLDivergence": "",
    "LogCosh": "",
    "MeanAbsoluteError": "",
    "MeanAbsolutePercentageError": "",
    "MeanSquaredError": "",
    "MeanSquaredLogarithmicError": "",
    "Poisson": "",
    "SparseCategoricalCrossentropy": "from_logits ignore_class axis",
    "SquaredHinge": "",
    "Tversky": "alpha beta axis",
}

_METRICS: Mapping[str, str] = {
    "AUC": "num_thresholds curve summation_method thresholds multi_label num_labels label_weights from_logits",
    "Accuracy": "",
    "BinaryAccuracy": "threshold",
    "BinaryCrossentropy": "from_logits label_smoothing",
    "BinaryIoU": "target_class_ids threshold",
    "CategoricalAccuracy": "",
    "CategoricalCrossentropy": "from_logits label_smoothing axis",
    "CategoricalHinge": "",
    "ConcordanceCorrelation": "axis",
    "CosineSimilarity": "axis",
    "F1Score": "average threshold",
    "FBetaScore": "average beta threshold",
    "FalseNegatives": "thresholds",
    "FalsePositives": "thresholds",
    "Hinge": "",
    "IoU": "num_classes! target_class_ids! ignore_class sparse_y_true sparse_y_pred axis",
    "KLDivergence": "",
    "LogCoshError": "",
    "MeanAbsoluteError": "",
    "MeanAbsolutePercentageError": "",
    "MeanIoU": "num_classes! ignore_class sparse_y_true sparse_y_pred axis",
    "MeanSquaredError": "",
    "MeanSquaredLogarithmicError": "",
    "OneHotIoU": "num_classes! target_class_ids! ignore_class sparse_y_pred axis",
    "OneHotMeanIoU": "num_classes! ignore_class sparse_y_pred axis",
    "PearsonCorrelation": "axis",
    "Poisson": "",
    "Precision": "thresholds top_k class_id",
    "PrecisionAtRecall": "recall! num_thresholds class_id",
    "R2Score": "class_aggregation num_regressors",
    "Recall": "thresholds top_k class_id",
    "RecallAtPrecision": "precision! num_thresholds class_id",
    "RootMeanSquaredError": "",
    "SensitivityAtSpecificity": "specificity! num_thresholds class_id",
    "SparseCategoricalAccuracy": "",
    "SparseCategoricalCrossentropy": "from_logits ignore_class axis",
    "SparseTopKCategoricalAccuracy": "k from_sorted_ids",
    "SpecificityAtSensitivity": "sensitivity! num_thresholds class_id",
    "SquaredHinge": "",
    "TopKCategoricalAccuracy": "k",
    "TrueNegatives": "thresholds",
    "TruePositives": "thresholds",
}

_SCHEDULES: Mapping[str, str] = {
    "CosineDecay": "initial_learning_rate! decay_steps! alpha name warmup_target warmup_steps",
    "CosineDecayRestarts": "initial_learning_rate! first_decay_steps! t_mul m_mul alpha name",
    "ExponentialDecay": "initial_learning_rate! decay_steps! decay_rate! staircase name",
    "InverseTimeDecay": "initial_learning_rate! decay_steps! decay_rate! staircase name",
    "PiecewiseConstantDecay": "boundaries! values! name",
    "PolynomialDecay": "initial_learning_rate! decay_steps! end_learning_rate power cycle name",
}

_CALLBACKS: Mapping[str, str] = {
    "CSVLogger": "filename! separator append",
    "EarlyStopping": "monitor min_delta patience verbose mode baseline restore_best_weights start_from_epoch",
    "ModelCheckpoint": (
        "filepath! monitor verbose save_best_only save_weights_only mode save_freq initial_value_threshold"
    ),
    "ReduceLROnPlateau": "monitor factor patience verbose mode min_delta cooldown min_lr",
    "RemoteMonitor": "root path field headers send_as_json",
    "SwapEMAWeights": "swap_on_epoch",
    "TensorBoard": (
        "log_dir histogram_freq write_graph write_images write_steps_per_second update_freq profile_batch "
        "embeddings_freq embeddings_metadata"
    ),
    "TerminateOnNaN": "raise_error",
}

_ABBREVIATIONS = {
    "mse": "MeanSquaredError",
    "mae": "MeanAbsoluteError",
    "mape": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogarithmicError",
    "bce": "BinaryCrossentropy",
}

_SHARED = "include_top weights input_tensor input_shape pooling classes classifier_activation name"
_PREPROCESSING = "include_preprocessing"
_NETWORKS: Mapping[str, str] = {
    "ConvNeXtBase ConvNeXtLarge ConvNeXtSmall ConvNeXtTiny ConvNeXtXLarge": _PREPROCESSING,
    "DenseNet121 DenseNet169 DenseNet201": "",
    "EfficientNetB0 EfficientNetB1 EfficientNetB2 EfficientNetB3 EfficientNetB4": "",
    "EfficientNetB5 EfficientNetB6 EfficientNetB7": "",
    "EfficientNetV2B0 EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3": _PREPROCESSING,
    "EfficientNetV2L EfficientNetV2M EfficientNetV2S": _PREPROCESSING,
    "InceptionResNetV2 InceptionV3 NASNetLarge NASNetMobile": "",
    "MobileNet": "alpha depth_multiplier dropout",
    "MobileNetV2": "alpha",
    "MobileNetV3Large MobileNetV3Small": f"alpha minimalistic dropout_rate {_PREPROCESSING}",
    "ResNet101 ResNet101V2 ResNet152 ResNet152V2 ResNet50 ResNet50V2 VGG16 VGG19 Xception": "",
}

APPLICATIONS: Mapping[str, str] = {
    f"keras.applications.{name}": f"{own} {_SHARED}".strip()
    for names, own in _NETWORKS.items()
    for name in names.split()
}


@dataclass(frozen=True)
class Family:
    """The names of one kind of Keras object.

    `aliases` are the other spellings that Keras accepts, each with the class that it means; `any_case`: Keras looks
    these names up without regard to case. `unusable` names exist in Keras, and the reason why a job cannot use them.
    """

    classes: Mapping[str, str]
    shared: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    any_case: bool = False
    unusable: Mapping[str, str] = field(default_factory=dict)

    def class_of(self, name: str) -> str | None:
        """The class that `name` means to Keras, None if it means none."""
        if name in self.classes:
            return name
        if self.any_case:
            return next((known for known in self.classes if known.lower() == name.lower()), None)
        return self.aliases.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling, classes first."""
        lower = tuple(name.lower() for name in self.classes) if self.any_case else ()
        return (*self.classes, *self.aliases, *lower)

    def arguments(self, class_name: str) -> tuple[str, ...]:
        return tuple(f"{self.classes[class_name]} {self.shared}".replace("!", "").split())

    def required(self, class_name: str) -> tuple[str, ...]:
        return tuple(word[:-1] for word in self.classes[class_name].split() if word.endswith("!"))


def snake_case(name: str) -> str:
    """`SquaredHinge` as Keras writes it for a function: `squared_hinge`."""
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _aliases(classes: Mapping[str, str], abbreviations: Mapping[str, str]) -> dict[str, str]:
    spelled_out = {snake_case(name): name for name in classes}
    upper = {short.upper(): name for short, name in abbreviations.items()}
    return {**spelled_out, **abbreviations, **upper}


_FUNCTIONS = "it is made of Python functions; write a function that returns it and name that as package.module:function"

OPTIMIZERS = Family(
    _OPTIMIZERS,
    shared=(
        "name weight_decay clipnorm clipvalue global_clipnorm use_ema ema_momentum ema_overwrite_frequency "
        "loss_scale_factor gradient_accumulation_steps"
    ),
    any_case=True,
)
LOSSES = Family(
    _LOSSES, shared="reduction name dtype", aliases=_aliases(_LOSSES, _ABBREVIATIONS | {"kld": "KLDivergence"})
)
METRICS = Family(
    _METRICS,
    shared="name dtype",
    # `acc`, as `accuracy`, means to Keras: binary, categorical or sparse, whichever fits the labels.
    aliases={**_aliases(_METRICS, _ABBREVIATIONS), "acc": "Accuracy"},
)
_LOGGED_OTHERWISE = {"FBetaScore": "fbeta_score", "LogCoshError": "logcosh"}


def logged_name(metric: str, arguments: Mapping[str, Any]) -> str:
    """What Keras calls a metric that it knows in its logs, but for the number that it gives to a second one."""
    class_name = METRICS.class_of(metric)
    if arguments.get("name") or class_name is None:
        return str(arguments.get("name") or metric)
    if class_name == "Accuracy" and not arguments:
        return metric
    return _LOGGED_OTHERWISE.get(class_name) or snake_case(class_name)


SCHEDULES = Family(_SCHEDULES)
CALLBACKS = Family(
    _CALLBACKS,
    unusable={
        "LambdaCallback": _FUNCTIONS,
        "LearningRateScheduler": _FUNCTIONS,
        "BackupAndRestore": "it overwrites its only copy, on every worker; write checkpoint: {every_epochs: 1} instead",
        "OrbaxCheckpoint": "it writes on every worker, into one place; write checkpoint: {every_epochs: 1} instead",
    },
)
