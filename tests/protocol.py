"""What every registered network must do, one function per property.

The properties are those of timm's own model tests, and what these lack: export, compile, ONNX, memory formats, half
precision, copies and files. Each function takes a registered name and raises AssertionError. ``randomise`` gives batch
norms and affine parameters values that are not their defaults, which hide errors.
"""

import copy
import fnmatch
import io
import math

import timm
import timm.optim
import torch
import torch.fx
from safetensors.torch import load, save
from torch import nn

BATCH = 2


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms random statistics and every norm random gain and shift."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            draw(module.running_mean, -0.2, 0.2)
            draw(module.running_var, 0.5, 1.5)
            draw(module.weight, 0.5, 1.5)
            draw(module.bias, -0.2, 0.2)
    return model


def build(name: str, **kwargs) -> nn.Module:
    """A network; those of ResNet-18's form for small images, the biggest by far, with an eighth of the channels."""
    return timm.create_model(name, **({"width": 0.125} if name.endswith("_cifar") else {}) | kwargs)


def make(name: str, **kwargs) -> nn.Module:
    """A randomised network in eval mode."""
    torch.manual_seed(0)
    return randomise(build(name, **kwargs)).eval()


def images(model: nn.Module, batch: int = BATCH) -> torch.Tensor:
    """Random input of the network's own size, at most 64 pixels a side where the size is free."""
    channels, height, width = model.default_cfg["input_size"]
    generator = torch.Generator().manual_seed(1)
    side = min(height, 64)
    return torch.randn(batch, channels, side, min(width, 64), generator=generator)


def close(a: torch.Tensor, b: torch.Tensor, relative: float) -> None:
    """Largest difference within ``relative`` of the largest value."""
    assert a.shape == b.shape, (a.shape, b.shape)
    difference = (a.double() - b.double()).abs().max().item()
    assert difference <= relative * max(b.double().abs().max().item(), 1e-12), difference


def check_forward(name: str) -> None:
    """Scores of the right shape, finite, and the same with gradient checkpointing."""
    model = make(name)
    x = images(model)
    scores = model(x)
    assert scores.shape == (BATCH, model.num_classes)
    assert torch.isfinite(scores).all()
    assert scores.abs().max() > 0
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), scores, rtol=1e-4, atol=1e-5)


def check_backward(name: str, without_gradient: tuple[str, ...] = ()) -> None:
    """In training every parameter gets a gradient, but for a named list of shell patterns."""
    model = build(name, num_classes=42).train()
    scores = model(images(model))
    assert scores.shape == (BATCH, 42)
    scores.square().mean().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    excused = [n for n in missing if any(fnmatch.fnmatch(n, pattern) for pattern in without_gradient)]
    assert missing == excused, missing
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def check_default_cfg(name: str) -> None:
    """Configuration, head surgery and unpooled features agree (timm's test_model_default_cfgs)."""
    model = make(name)
    cfg, state = model.default_cfg, model.state_dict()
    assert model.num_features > 0
    assert model.head_hidden_size > 0
    for key in ("first_conv", "classifier"):
        assert any(n.startswith(f"{cfg[key]}.") and n.split(".")[-1] != "bias" for n in state), cfg[key]
    x = torch.randn(BATCH, *cfg["input_size"]) if cfg["input_size"][1] <= 64 else images(model)
    features = model.forward_features(x)
    if x.shape[-1] == cfg["input_size"][-1]:
        assert features.shape[-2:] == tuple(cfg["pool_size"])
    assert features.shape[1] == model.num_features
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (BATCH, model.head_hidden_size)
    assert isinstance(model.get_classifier(), nn.Module)
    model.reset_classifier(0)
    close(model(x), hidden, 1e-6)
    model.reset_classifier(0, "")
    assert model(x).dim() == 4
    model.reset_classifier(7, "avg")
    assert model(x).shape == (BATCH, 7)
    assert build(name, num_classes=0).eval()(x).shape == hidden.shape
    unpooled = build(name, num_classes=0, global_pool="").eval()(x)
    assert unpooled.shape[:1] + unpooled.shape[2:] == features.shape[:1] + features.shape[2:]


def check_features(name: str) -> None:
    """``features_only`` gives at least three levels with the channels and reductions it declares."""
    model = build(name, features_only=True).eval()
    x = images(model)
    levels = model(x)
    assert len(levels) >= 3
    info = model.feature_info
    assert [level.shape[1] for level in levels] == info.channels()
    for level, reduction in zip(levels, info.reduction(), strict=True):
        assert level.shape[-1] in (math.ceil(x.shape[-1] / reduction), x.shape[-1] // reduction)
    chosen = build(name, features_only=True, out_indices=(0, 2)).eval()
    assert [level.shape[1] for level in chosen(x)] == chosen.feature_info.channels()


def check_intermediates(name: str) -> None:
    """``forward_intermediates`` ends where ``forward_features`` does, also with checkpointing and early stop."""
    model = make(name)
    x = images(model)
    final, outputs = model.forward_intermediates(x)
    close(final, model.forward_features(x), 1e-6)
    assert [o.shape[1] for o in outputs] == [i["num_chs"] for i in model.feature_info]
    early = model.forward_intermediates(x, indices=[0, 1], stop_early=True, intermediates_only=True)
    for a, b in zip(early, outputs[:2], strict=True):
        close(a, b, 1e-6)
    model.set_grad_checkpointing()
    close(model.forward_intermediates(x, intermediates_only=True)[-1], outputs[-1], 1e-5)
    take = model.prune_intermediate_layers([0, 1])
    pruned = model.forward_intermediates(x, indices=take, intermediates_only=True)
    close(pruned[-1], outputs[1], 1e-5)


def check_adaption(name: str) -> None:
    """Other channels and classes: the network still runs and has a first convolution of that many channels."""
    for channels, classes in ((1, 5), (4, 0)):
        model = build(name, in_chans=channels, num_classes=classes).eval()
        x = images(model)[:, :1].expand(-1, channels, -1, -1)
        assert model(x).shape == (BATCH, classes or model.head_hidden_size)


def check_group_matcher(name: str) -> None:
    """Every parameter belongs to exactly one group, fine and coarse."""
    model = build(name)
    for coarse in (False, True):
        groups = timm.models.group_parameters(model, model.group_matcher(coarse=coarse))
        names = [n for group in groups.values() for n in group]
        assert sorted(names) == sorted(n for n, _ in model.named_parameters())
        assert len(groups) > 2


def check_fx(name: str) -> None:
    """torch.fx traces it; the trace computes the same to the bit and gives every gradient."""
    model = make(name)
    x = images(model)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    traced.train()(x).square().mean().backward()
    missing = {n for n, p in traced.named_parameters() if p.grad is None}
    model.train()(x).square().mean().backward()
    assert missing <= {n for n, p in model.named_parameters() if p.grad is None}


def check_export(name: str) -> None:
    """torch.export computes the same."""
    model = make(name)
    x = images(model)
    exported = torch.export.export(model, (x,), strict=False).module()
    close(exported(x), model(x), 1e-5)


def check_compile(name: str) -> None:
    """torch.compile takes the whole network as one graph that computes the same."""
    model = make(name)
    x = images(model)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    close(compiled, model(x), 1e-5)


def check_onnx(name: str) -> None:
    """ONNX Runtime computes the same from the exported file."""
    import onnxruntime

    model = make(name)
    x = images(model)
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    buffer = io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    close(torch.from_numpy(scores), model(x).detach(), 1e-4)


def check_memory_format(name: str) -> None:
    """Channels-last gives the same scores."""
    model = make(name).double()
    x = images(model).double()
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    close(model(x.contiguous(memory_format=torch.channels_last)), expected, 1e-10)


def check_bfloat16(name: str) -> None:
    """The network runs in bfloat16, as cast and under autocast."""
    model = make(name)
    x = images(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(x)).all()
    scores = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert scores.dtype == torch.bfloat16
    assert torch.isfinite(scores).all()


def check_built_under_autocast(name: str) -> None:
    """Built inside torch.autocast it is the network it always is."""
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        model = build(name)
    torch.manual_seed(0)
    expected = build(name).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def check_copies(name: str) -> None:
    """Deep copies are independent; a safetensors file holds each tensor once and restores the network strictly."""
    model = make(name)
    x = images(model)
    expected = model(x)
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert torch.equal(model(x), expected)
    state = model.state_dict()
    storages = [t.untyped_storage().data_ptr() for t in state.values() if t.numel()]
    assert len(set(storages)) == len(storages), "two entries share memory"
    restored = build(name).eval()
    restored.load_state_dict(load(save(state)), strict=True)
    assert torch.equal(restored(x), expected)


def check_pickle(name: str) -> None:
    """torch.save of the whole network, as users of timm do it, gives an equal and independent one."""
    model = make(name)
    x = images(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    restored = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert type(restored) is type(model)
    assert list(restored.state_dict()) == list(model.state_dict())
    expected = model(x)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(restored(x), expected)
    restored.train()(x).sum().backward()


def check_meta(name: str) -> None:
    """Built on the meta device, given memory with any content and loaded strictly, it is the same function."""
    model = make(name)
    x = images(model)
    with torch.device("meta"):
        empty = build(name)
    empty = empty.to_empty(device="cpu").eval()
    for tensor in [*empty.parameters(), *empty.buffers()]:
        tensor.data.zero_()
    empty.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(empty(x), model(x))


def check_device_and_dtype(name: str) -> None:
    """``device`` and ``dtype`` are arguments, as of timm's networks."""
    tensors = [*build(name, device="meta").parameters()]
    assert all(tensor.is_meta for tensor in tensors)
    model = build(name, dtype=torch.float64).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(images(model).double()).dtype == torch.float64
    restored = build(name, device="cpu", dtype=torch.bfloat16)
    assert {t.dtype for t in restored.state_dict().values() if t.is_floating_point()} == {torch.bfloat16}


def check_weight_decay(name: str) -> None:
    """timm's optimizer factory decays every kernel, whatever makes it, and spares biases, norms and coefficients."""
    model = build(name)
    optimizer = timm.optim.create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=0.1)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {id(p): n for n, p in model.named_parameters()}
    assert len(names) == len([p for group in optimizer.param_groups for p in group["params"]])
    norms = (nn.BatchNorm2d, nn.BatchNorm1d)
    spared = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters()}
    coefficients = getattr(model, "no_weight_decay", set)()
    wrong = [n for i, n in names.items() if (i in decayed) == (i in spared or n.endswith("bias") or n in coefficients)]
    assert not wrong, wrong


def check_parts(name: str) -> None:
    """A part of a network, cut out or traced, has every tensor it computes with, once."""
    model = make(name).double()
    if not hasattr(model, "stages"):
        return
    x = images(model).double()
    part = nn.Sequential(model.stem, *model.stages)
    expected = part(x)
    twin = nn.Sequential(*copy.deepcopy(part))
    state = part.state_dict()
    storages = {t.untyped_storage().data_ptr() for t in state.values()}
    assert len(storages) == len(state), "two entries share memory"
    for tensor in twin.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(0.5).add_(0.1)
    assert not torch.equal(twin(x), expected)
    twin.load_state_dict(state, strict=True)
    assert torch.equal(twin(x), expected)
    traced = torch.fx.symbolic_trace(copy.deepcopy(part)).float()
    close(traced(x.float()), expected, 1e-4)
    assert len(list(traced.parameters())) == len(list(part.parameters()))
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert twin(x).abs().max() == 0, "something that is no parameter of the part computes"


CHECKS = {
    function.__name__.removeprefix("check_"): function
    for function in (
        check_forward,
        check_backward,
        check_default_cfg,
        check_features,
        check_intermediates,
        check_adaption,
        check_group_matcher,
        check_fx,
        check_export,
        check_compile,
        check_onnx,
        check_memory_format,
        check_bfloat16,
        check_copies,
        check_pickle,
        check_built_under_autocast,
        check_meta,
        check_device_and_dtype,
        check_weight_decay,
        check_parts,
    )
}
