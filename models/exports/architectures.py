"""The architectures that are exported: names, how to build them with seeded random weights, their inputs.

torchvision's are the list that Torch-Pruning's own torchvision example tries (77 that it prunes, 8 that it
doesn't). timm's and the others cover what the issue of the day names. Widths and depths are the real ones
unless the name says otherwise; images are small where the network allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

# The twelve that are compared with Torch-Pruning by name.
TABLE = (
    *("resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"),
    *("densenet121", "googlenet", "resnext50_32x4d", "shufflenet_v2_x1_0"),
    *("vit_tiny_patch16_224", "convnext_tiny"),
)
DETECTION = (
    *("ssdlite320_mobilenet_v3_large", "ssd300_vgg16", "fasterrcnn_resnet50_fpn"),
    *("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn"),
    *("fasterrcnn_mobilenet_v3_large_fpn", "fcos_resnet50_fpn", "keypointrcnn_resnet50_fpn"),
    *("maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn_v2"),
)
SEGMENTATION = (
    *("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"),
    *("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"),
)
CLASSIFICATION = (
    *("alexnet", "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"),
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    *("densenet121", "densenet169", "densenet201", "densenet161"),
    *(f"efficientnet_{v}" for v in ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")),
    *(f"efficientnet_v2_{v}" for v in ("s", "m", "l")),
    *("googlenet", "inception_v3", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    *("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *(
        f"regnet_y_{v}"
        for v in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf")
    ),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
    *("squeezenet1_0", "squeezenet1_1"),
    *(f"vgg{n}{bn}" for n in (11, 13, 16, 19) for bn in ("", "_bn")),
    *("swin_t", "swin_s", "swin_b"),
    *(f"shufflenet_v2_x{v}" for v in ("0_5", "1_0", "1_5", "2_0")),
)
TIMM = (
    *("vit_tiny_patch16_224", "vit_small_patch32_224", "deit_tiny_patch16_224"),
    *("deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"),
    *("swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "swinv2_tiny_window8_256"),
    *("timm/convnext_tiny", "convnext_atto", "convnextv2_atto", "convnextv2_nano"),
    *("timm/efficientnet_b0", "efficientnet_lite0", "efficientnetv2_rw_t", "tf_efficientnet_b0"),
    *("mobilenetv3_small_100", "mobilenetv3_large_100", "mobilenetv4_conv_small"),
    *("mobilenetv4_hybrid_medium", "mobilenetv2_100", "mixer_s16_224", "resmlp_12_224"),
    *("gmlp_ti16_224", "hrnet_w18_small", "hrnet_w18", "ghostnet_100", "ghostnetv2_100"),
    *("regnetx_002", "regnety_002", "regnetz_005", "levit_128s", "levit_conv_128s"),
    *("poolformer_s12", "poolformerv2_s12", "fastvit_t8", "fastvit_sa12", "maxvit_tiny_tf_224"),
    *("maxvit_rmlp_pico_rw_256", "coatnet_nano_rw_224", "edgenext_xx_small", "edgenext_small"),
    *("mobilevit_xxs", "mobilevitv2_050", "repvgg_a0", "repvit_m0_9", "rexnet_100", "dla34"),
    *("res2net50_14w_8s", "resnest14d", "skresnet18", "cspresnet50", "darknet21", "dpn68"),
    *("xception41", "inception_next_atto", "efficientformer_l1", "tiny_vit_5m_224", "pvt_v2_b0"),
    *("twins_svt_small", "xcit_nano_12_p16_224", "davit_tiny", "focalnet_tiny_srf", "pit_ti_224"),
    *("convmixer_768_32", "mambaout_femto", "hgnetv2_b0", "lcnet_100", "starnet_s1"),
    *("ese_vovnet19b_dw", "selecsls42b", "nfnet_l0", "cait_xxs24_224", "convit_tiny"),
)
OTHERS = ("bert", "gpt2", "llama", "lstm", "gru")

LIGHT = (
    *("resnet18", "mobilenet_v2", "vit_tiny_patch16_224", "bert", "gpt2", "llama", "lstm", "gru"),
    *("convnext_atto", "efficientnet_b0", "densenet121", "shufflenet_v2_x1_0", "squeezenet1_1"),
    *("mobilenet_v3_small", "regnet_y_400mf", "googlenet", "mnasnet0_5", "swin_t", "resnet50"),
    *(
        "ssdlite320_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
    ),
    *("swin_tiny_patch4_window7_224", "deit_tiny_patch16_224", "mixer_s16_224", "levit_128s"),
    *(
        "edgenext_xx_small",
        "mobilevit_xxs",
        "ghostnet_100",
        "regnety_002",
        "mobilenetv4_conv_small",
    ),
    *(
        "poolformer_s12",
        "maxvit_rmlp_pico_rw_256",
        "xcit_nano_12_p16_224",
        "pvt_v2_b0",
        "convnextv2_atto",
    ),
    *("fastvit_t8", "repvgg_a0", "hrnet_w18_small", "dla34", "dpn68", "resnest14d", "skresnet18"),
    *(
        "cspresnet50",
        "nfnet_l0",
        "cait_xxs24_224",
        "convit_tiny",
        "pit_ti_224",
        "coatnet_nano_rw_224",
    ),
    *(
        "twins_svt_small",
        "davit_tiny",
        "focalnet_tiny_srf",
        "mambaout_femto",
        "starnet_s1",
        "hgnetv2_b0",
    ),
    *("resnext50_32x4d", "inception_v3", "mobilenet_v3_large", "squeezenet1_0", "efficientnet_b1"),
    *("shufflenet_v2_x0_5", "mnasnet1_0", "regnet_y_800mf", "efficientnet_v2_s", "resnet34"),
    *("deeplabv3_mobilenet_v3_large", "mobilenetv3_small_100", "mobilenetv2_100", "ghostnetv2_100"),
    *(
        "regnetx_002",
        "regnetz_005",
        "efficientnet_lite0",
        "tf_efficientnet_b0",
        "lcnet_100",
        "rexnet_100",
    ),
    *(
        "res2net50_14w_8s",
        "xception41",
        "darknet21",
        "ese_vovnet19b_dw",
        "selecsls42b",
        "convmixer_768_32",
    ),
    *(
        "efficientformer_l1",
        "tiny_vit_5m_224",
        "inception_next_atto",
        "repvit_m0_9",
        "mobilevitv2_050",
    ),
    *(
        "resmlp_12_224",
        "gmlp_ti16_224",
        "poolformerv2_s12",
        "swinv2_cr_tiny_224",
        "vit_small_patch32_224",
    ),
)
"""Small ones of every kind, in the order in which they are worth running: `imports.py` takes them through
both exporters and all opsets."""

# Exporters are swept over these opsets on a light subset; others run at one opset each.
CROSS = (
    *("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "convnext_atto"),
    *("vit_tiny_patch16_224", "levit_128s", "mobilenetv4_conv_small", "ghostnet_100"),
    *("regnety_002", "edgenext_xx_small", "bert", "gpt2", "llama", "lstm", "gru"),
)


@dataclass(frozen=True)
class Architecture:
    """A network that can be exported.

    Attributes:
        name: What it is called in the table.
        library: Where it comes from.
        build: Returns the network in evaluation mode, with seeded random weights.
        inputs: Example inputs by name, in order.
        dynamic: Input name -> axis -> name of an open dimension.
        listed: The network takes a list of images, as torchvision's detectors do.
    """

    name: str
    library: str
    build: Callable[[], nn.Module]
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)
    listed: bool = False


def names() -> Iterator[str]:
    """Yield every name, in the order in which they are worth running."""
    seen: set[str] = set()
    light = ("lstm", "gru", "gpt2", "bert", "llama")
    for name in (*TABLE, *light, *CLASSIFICATION, *SEGMENTATION, *DETECTION, "raft_large", *TIMM):
        if name not in seen:
            seen.add(name)
            yield name


def torchvision_list() -> tuple[str, ...]:
    """Return the 85 names of Torch-Pruning's torchvision example."""
    return (*CLASSIFICATION, *SEGMENTATION, *DETECTION, "raft_large")


def architecture(name: str, *, small: bool = False) -> Architecture:
    """Return the recipe of a name.

    Args:
        name: The name.
        small: Let images of torchvision's networks be small, of those too that are compared with others.

    Raises:
        KeyError: No such name.
    """
    if name in torchvision_list():
        return _torchvision(name, small=small)
    if name in TIMM:
        return _timm(name)
    if name in OTHERS:
        return _OTHERS[name]()
    raise KeyError(name)


def _seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def built() -> nn.Module:
        torch.manual_seed(0)
        network = build().eval()
        _enliven(network)
        return network

    return built


def _enliven(network: nn.Module) -> None:
    """Give a fresh network the numbers that training would: an error must show in the output.

    Layer scales and the last norms of residual branches start near zero and would hide their branches;
    statistics and offsets that start as zeros and ones would hide what is done with them.
    """
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.dtype == torch.float32 and tensor.numel() > 1 and _uniform(tensor):
                value = float(tensor.reshape(-1)[0])
                low, high = (0.5, 1.5) if value else (-0.1, 0.1)
                scale = 1.0 if abs(value) < 0.5 else abs(value)  # noqa: PLR2004  (a layer scale)
                tensor.uniform_(low * scale, high * scale)


def _uniform(tensor: Tensor) -> bool:
    return tensor.dim() <= 4 and bool((tensor == tensor.reshape(-1)[0]).all())  # noqa: PLR2004


def _image(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def _torchvision(name: str, *, small: bool = False) -> Architecture:
    import torchvision

    options: dict[str, Any] = {"weights": None}
    if name in DETECTION:
        # The detectors resize what they get: to small images here.
        options["weights_backbone"] = None
        if not name.startswith("ssd"):
            options |= {"min_size": 128, "max_size": 160}
        entry = getattr(torchvision.models.detection, name)
        image = {"image": _image(128)[0]}
        return Architecture(
            name, "torchvision", _seeded(lambda: entry(**options)), image, listed=True
        )
    if name == "raft_large":
        entry = torchvision.models.optical_flow.raft_large
        pair = {"image1": _image(128, 1), "image2": _image(128, 1)}
        build = _seeded(lambda: _Raft(entry(**options)))
        return Architecture(name, "torchvision", build, pair)
    if name in SEGMENTATION:
        options["weights_backbone"] = None
        entry = getattr(torchvision.models.segmentation, name)
        build = _seeded(lambda: _Chosen(entry(**options), "out"))
    else:
        if name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": False}
        entry = getattr(torchvision.models, name)
        build = _seeded(lambda: entry(**options))
    # Position tables, and pools to a fixed size that exporters can't express, ask for one size.
    fixed = name.startswith(("vit_", "vgg", "alexnet", "swin_")) or (name in TABLE and not small)
    size = 224 if fixed else 96
    return _batched(name, "torchvision", build, {"input": _image(size)})


def _batched(
    name: str, library: str, build: Callable[[], nn.Module], inputs: dict[str, Tensor]
) -> Architecture:
    return Architecture(name, library, build, inputs, {n: {0: "batch"} for n in inputs})


class _Chosen(nn.Module):
    """One entry of a network that returns a dictionary."""

    def __init__(self, network: nn.Module, key: str) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to the entry."""
        result: Tensor = self.network(x)[self.key]
        return result


class _Raft(nn.Module):
    """The last of RAFT's iterated flows, after two instead of twelve updates."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        """Two images [N, 3, H, W] to a flow [N, 2, H, W]."""
        flow: Tensor = self.network(image1, image2, num_flow_updates=2)[-1]
        return flow


def _timm(name: str) -> Architecture:
    import timm

    # torchvision has networks of the same name.
    plain = name.removeprefix("timm/")
    config = timm.get_pretrained_cfg(plain)
    fixed = config is not None and config.fixed_input_size
    own = config.input_size[-1] if config is not None else 224
    windows = plain.startswith(
        ("maxvit", "coatnet", "swin", "levit", "efficientformer", "tiny_vit")
    )
    size = own if fixed or windows else min(own, 224 if name in TABLE else 128)
    # Random weights of residual networks start as zero where pretrained ones would follow.
    build = _seeded(lambda: timm.create_model(plain, pretrained=False, exportable=True))
    return _batched(name, "timm", build, {"input": _image(size)})


class _Logits(nn.Module):
    """A transformer's first output, from token ids alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[N, S] to the first output, [N, S, D]."""
        result: Tensor = self.network(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=False
        )[0]
        return result


def _text(name: str, build: Callable[[], nn.Module], vocabulary: int) -> Architecture:
    ids = torch.randint(0, vocabulary, (2, 12), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    open_axes = {n: {0: "batch", 1: "sequence"} for n in inputs}
    return Architecture(name, "transformers", _seeded(lambda: _Logits(build())), inputs, open_axes)


def _bert() -> Architecture:
    """Base widths, two layers, a small vocabulary; a classifier, so that the residual isn't the output."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(num_hidden_layers=2, vocab_size=1000, attn_implementation="eager")
    return _text("bert", lambda: BertForSequenceClassification(config), 1000)


def _gpt2() -> Architecture:
    """Small's widths, two layers, a small vocabulary."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, vocab_size=1000, use_cache=False, attn_implementation="eager")
    return _text("gpt2", lambda: GPT2LMHeadModel(config), 1000)


def _llama() -> Architecture:
    """Two blocks with grouped queries, RMSNorm, rotary embedding and a gated MLP."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=1000,
        use_cache=False,
        attn_implementation="eager",
    )
    return _text("llama", lambda: LlamaForCausalLM(config), 1000)


class _Sequence(nn.Module):
    """Two recurrent layers in both directions, and a classifier on the last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent = kind(40, 64, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, 40] to [N, 10]."""
        steps, _ = self.recurrent(x)
        result: Tensor = self.head(steps[:, -1])
        return result


def _recurrent(name: str, kind: type[nn.RNNBase]) -> Architecture:
    x = torch.randn(2, 10, 40, generator=torch.Generator().manual_seed(1))
    return _batched(name, "torch", _seeded(lambda: _Sequence(kind)), {"input": x})


_OTHERS: dict[str, Callable[[], Architecture]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "lstm": lambda: _recurrent("lstm", nn.LSTM),
    "gru": lambda: _recurrent("gru", nn.GRU),
}
