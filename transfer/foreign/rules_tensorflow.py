"""Rename rules for networks that were published as TensorFlow checkpoints: FaceNet, TF-slim's ResNet-50, BERT."""

from __future__ import annotations

from collections.abc import Iterator

from transfer.foreign.rule_set import Implied, RuleSet
from transfer.rename import Rule

__all__ = ["RULES"]

# What training kept beside the weights: moving averages of them, slots of optimizers, counters.
TRAINING_STATE = (
    Rule(r".*/(ExponentialMovingAverage|Adam|Adam_1|adam_m|adam_v|Adagrad|Momentum|RMSProp|RMSProp_1)", None),
    Rule(r"(.*/)?(global_step|beta1_power|beta2_power|Variable|good_steps|loss_scale)(_\d+)?", None),
)
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def _normalised(source: str, conv: str, norm: str) -> Iterator[Rule]:
    """Yield the rules of one of slim's convolutions with a batch normalisation behind it."""
    yield Rule(f"{source}/weights", f"{conv}.weight", "conv")
    for theirs, ours in NORM.items():
        yield Rule(f"{source}/BatchNorm/{theirs}", f"{norm}.{ours}")


FACENET_STEM = {
    "Conv2d_1a_3x3": "conv2d_1a", "Conv2d_2a_3x3": "conv2d_2a", "Conv2d_2b_3x3": "conv2d_2b",
    "Conv2d_3b_1x1": "conv2d_3b", "Conv2d_4a_3x3": "conv2d_4a", "Conv2d_4b_3x3": "conv2d_4b",
}  # fmt: skip
FACENET_BLOCKS = [
    # their scope, our module, branches as lists of convolutions
    *(
        (f"Repeat/block35_{place + 1}", f"repeat_1.{place}",
         [["Conv2d_1x1"], ["Conv2d_0a_1x1", "Conv2d_0b_3x3"], ["Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_0c_3x3"]])
        for place in range(5)
    ),
    ("Mixed_6a", "mixed_6a", [["Conv2d_1a_3x3"], ["Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_1a_3x3"]]),
    *(
        (f"Repeat_1/block17_{place + 1}", f"repeat_2.{place}",
         [["Conv2d_1x1"], ["Conv2d_0a_1x1", "Conv2d_0b_1x7", "Conv2d_0c_7x1"]])
        for place in range(10)
    ),
    ("Mixed_7a", "mixed_7a", [["Conv2d_0a_1x1", "Conv2d_1a_3x3"], ["Conv2d_0a_1x1", "Conv2d_1a_3x3"],
                              ["Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_1a_3x3"]]),
    *(
        (f"Repeat_2/block8_{place + 1}", f"repeat_3.{place}",
         [["Conv2d_1x1"], ["Conv2d_0a_1x1", "Conv2d_0b_1x3", "Conv2d_0c_3x1"]])
        for place in range(5)
    ),
    ("Block8", "block8", [["Conv2d_1x1"], ["Conv2d_0a_1x1", "Conv2d_0b_1x3", "Conv2d_0c_3x1"]]),
]  # fmt: skip


def _facenet() -> Iterator[Rule]:
    yield from TRAINING_STATE
    yield Rule("Logits/(weights|biases)", None)  # of the people it was trained on; no forward here uses them
    root = "InceptionResnetV1"
    for theirs, ours in FACENET_STEM.items():
        yield from _normalised(f"{root}/{theirs}", f"{ours}.conv", f"{ours}.bn")
    for theirs, ours, branches in FACENET_BLOCKS:
        for number, convolutions in enumerate(branches):
            for place, name in enumerate(convolutions):
                # A branch of one convolution is that convolution, a longer one a list of them.
                own = f"{ours}.branch{number}" + (f".{place}" if len(convolutions) > 1 else "")
                yield from _normalised(f"{root}/{theirs}/Branch_{number}/{name}", f"{own}.conv", f"{own}.bn")
        yield Rule(f"{root}/{theirs}/Conv2d_1x1/weights", f"{ours}.conv2d.weight", "conv")
        yield Rule(f"{root}/{theirs}/Conv2d_1x1/biases", f"{ours}.conv2d.bias")
    yield Rule(f"{root}/Bottleneck/weights", "last_linear.weight", "linear")
    for theirs, ours in NORM.items():
        yield Rule(f"{root}/Bottleneck/BatchNorm/{theirs}", f"last_bn.{ours}")


def _resnet_slim(units: tuple[int, ...]) -> Iterator[Rule]:
    yield from TRAINING_STATE
    yield Rule("mean_rgb", None)
    root = r"resnet_v1_\d+"
    yield from _normalised(f"{root}/conv1", "conv1", "bn1")
    for block, count in enumerate(units, 1):
        for unit in range(count):
            theirs, ours = f"{root}/block{block}/unit_{unit + 1}/bottleneck_v1", f"layer{block}.{unit}"
            for conv in (1, 2, 3):
                yield from _normalised(f"{theirs}/conv{conv}", f"{ours}.conv{conv}", f"{ours}.bn{conv}")
            yield from _normalised(f"{theirs}/shortcut", f"{ours}.downsample.0", f"{ours}.downsample.1")
    yield Rule(f"{root}/logits/weights", "fc.weight", "linear")  # a convolution of 1 x 1 there: see `pointwise`
    yield Rule(f"{root}/logits/biases", "fc.bias")


def _bert() -> Iterator[Rule]:
    yield from TRAINING_STATE
    yield Rule("cls/.*", None)  # heads of pretraining
    yield Rule("output_(weights|bias)", None)  # the classifier of a fine-tuned checkpoint
    yield Rule(r"bert/embeddings/(word|position|token_type)_embeddings", r"embeddings.\1_embeddings.weight")
    places = {
        "bert/embeddings": "embeddings",
        r"bert/encoder/layer_(\d+)/attention/output": r"encoder.layer.\1.attention.output",
        r"bert/encoder/layer_(\d+)/output": r"encoder.layer.\1.output",
    }
    for theirs, ours in places.items():
        yield Rule(f"{theirs}/LayerNorm/gamma", f"{ours}.LayerNorm.weight")
        yield Rule(f"{theirs}/LayerNorm/beta", f"{ours}.LayerNorm.bias")
    for dense in (
        "attention/self/query", "attention/self/key", "attention/self/value", "attention/output/dense",
        "intermediate/dense", "output/dense",
    ):  # fmt: skip
        ours = rf"encoder.layer.\1.{dense.replace('/', '.')}"
        yield Rule(rf"bert/encoder/layer_(\d+)/{dense}/kernel", f"{ours}.weight", "linear")
        yield Rule(rf"bert/encoder/layer_(\d+)/{dense}/bias", f"{ours}.bias")
    yield Rule("bert/pooler/dense/kernel", "pooler.dense.weight", "linear")
    yield Rule("bert/pooler/dense/bias", "pooler.dense.bias")


# FaceNet's normalisations have no scale, which then is 1.
SCALE_OF_ONE = Implied("(InceptionResnetV1/.*BatchNorm)/beta", r"\1/gamma", 1.0)

RULES: dict[str, RuleSet] = {
    "facenet-tensorflow": RuleSet(
        name="facenet-tensorflow",
        source="TensorFlow: David Sandberg's FaceNet, Inception-ResNet-v1 with a bottleneck of 512 (20180402-114759)",
        into="facenet",
        rules=tuple(_facenet()),
        reference="github.com/davidsandberg/facenet, src/models/inception_resnet_v1.py; the modules are those of "
        "facenet_pytorch.InceptionResnetV1",
        preprocessing="faces of 160 x 160 pixels, red, green, blue, (x - 127.5) / 128 of 0 to 255",
        mean=(127.5 / 255,) * 3,
        std=(128 / 255,) * 3,
        implied=(SCALE_OF_ONE,),
    ),
    "resnet50-slim": RuleSet(
        name="resnet50-slim",
        source="TensorFlow: TF-slim's resnet_v1_50 (2016_08_28, a checkpoint of version 1)",
        into="timm/resnet50",
        rules=tuple(_resnet_slim((3, 4, 6, 3))),
        reference="github.com/google-research/tf-slim, tf_slim/nets/resnet_v1.py",
        preprocessing="red, green, blue from 0 to 255 less the mean (123.68, 116.78, 103.94), not scaled. TF-slim "
        "halves the picture in the last unit of a block, timm and torchvision in the first of the next, and it pads "
        "its pooling at one side only: the weights fit, but the outputs are not TensorFlow's before fine-tuning; see "
        "transfer.foreign.slim_resnet.halve_as_slim",
        mean=tuple(value / 255 for value in (123.68, 116.78, 103.94)),
        std=(1 / 255,) * 3,
        pointwise=(r"resnet_v1_\d+/logits/weights",),
    ),
    "bert-tensorflow": RuleSet(
        name="bert-tensorflow",
        source="TensorFlow: google-research's BERT (bert_model.ckpt), of any size",
        into="transformers",
        rules=tuple(_bert()),
        reference="github.com/google-research/bert, modeling.py; the modules are those of transformers.BertModel",
        preprocessing="WordPiece with the vocab.txt beside the checkpoint, [CLS] text [SEP]; lower case or not, as the "
        "checkpoint's name says; set the sizes as in its bert_config.json, and hidden_act gelu_new, the tanh form that "
        "google-research's code computes",
    ),
}
