"""The edits that no check finds, by reason; docs/mutants.md shows them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REASONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "the eight magnitudes are exact in float32, and their scale is still a double": (
            "dequantize: table = torch.tensor((*_E2M1, *(-v for v in _E2M1)), dtype=torch.float64) -> table = torch.tensor((*_E2M1, *(-v for v in _E2M1)))",
            "dequantize: table = torch.tensor((*_E2M1, *(-v for v in _E2M1)), dtype=torch.float64) -> table = torch.tensor((*_E2M1, *(-v for v in _E2M1)), dtype=torch.float32)",
        ),
        "powers of two down to 2**-127 are exact in float32 too": (
            "dequantize: power = torch.ldexp(torch.ones(scales.shape).double(), scales.int() - 127) -> power = torch.ldexp(torch.ones(scales.shape), scales.int() - 127)",
        ),
        "scale byte 0xFF: public decoders differ, a quality note": (
            "dequantize: power = power.masked_fill(scales == 255, torch.nan) -> power = power",
        ),
        "a candidate may keep views of the checkpoint; one of the accepted forms": (
            "pack: return {name: part.clone() for name, part in parts.items()} -> return {name: part for name, part in parts.items()}",
            "TorchDense.prepare: return {n: t.contiguous().clone().to(device) for n, t in prepared.items()} -> return {n: t.clone().to(device) for n, t in prepared.items()}",
        ),
        "the rows are two-dimensional here: axis 1 is the last": (
            "swiglu: gate, up = gate_up.unflatten(-1, (-1, 2)).unbind(-1) -> gate, up = gate_up.unflatten(1, (-1, 2)).unbind(-1)",
        ),
        "which of equal logits wins is a policy, a quality note": (
            "route: ranked = logits.float().sort(dim=1, descending=True, stable=True) -> ranked = logits.float().sort(dim=1, descending=True)",
            "route: ranked = logits.float().sort(dim=1, descending=True, stable=True) -> ranked = logits.float().sort(dim=1, descending=True, stable=False)",
        ),
        "torch sorts bfloat16 as it is and computes its softmax in float32: weights stored in bfloat16, which is accepted": (
            "route: ranked = logits.float().sort(dim=1, descending=True, stable=True) -> ranked = logits.sort(dim=1, descending=True, stable=True)",
        ),
        "int64 ids are accepted": (
            "route: return (ranked.indices[:, :top_k].int(), ranked.values[:, :top_k].softmax(dim=1)) -> return (ranked.indices[:, :top_k], ranked.values[:, :top_k].softmax(dim=1))",
            "TorchDense.route: return (ids.int(), shifted / shifted.sum(dim=1, keepdim=True)) -> return (ids, shifted / shifted.sum(dim=1, keepdim=True))",
        ),
        "finer arithmetic than the class declares: the intermediate is not rounded": (
            "Plain.between: between: torch.dtype = torch.bfloat16 -> between: torch.dtype = torch.float32",
            "Plain.expert: act = act.to(self.between).to(self.high) -> act = act.to(self.high)",
        ),
        "the same on a CPU; `mxmoe faults --candidate` on a GPU sees it": (
            "Plain.prepare: return {name: tensor.to(device) for name, tensor in packed.items()} -> return {name: tensor for name, tensor in packed.items()}",
            "TorchDense.trace: here = torch.arange(len(p['gate_up_blocks']), device=routing.ids.device) + first -> here = torch.arange(len(p['gate_up_blocks'])) + first",
            "TorchDense.route: columns = torch.arange(left.shape[1], device=left.device) -> columns = torch.arange(left.shape[1])",
        ),
        "float32 is torch's default, and `high` in this candidate": (
            "Plain.trace: stages = {'gate_up': torch.zeros(t, k, 2 * lanes, dtype=self.high), 'activation': torch.zeros(t, k, lanes, dtype=self.high), 'down': torch.zeros(t, k, p.config.hidden, dtype=self.high)} -> stages = {'gate_up': torch.zeros(t, k, 2 * lanes), 'activation': torch.zeros(t, k, lanes, dtype=self.high), 'down': torch.zeros(t, k, p.config.hidden, dtype=self.high)}",
            "Plain.trace: stages = {'gate_up': torch.zeros(t, k, 2 * lanes, dtype=self.high), 'activation': torch.zeros(t, k, lanes, dtype=self.high), 'down': torch.zeros(t, k, p.config.hidden, dtype=self.high)} -> stages = {'gate_up': torch.zeros(t, k, 2 * lanes, dtype=self.high), 'activation': torch.zeros(t, k, lanes), 'down': torch.zeros(t, k, p.config.hidden, dtype=self.high)}",
            "Plain.trace: stages = {'gate_up': torch.zeros(t, k, 2 * lanes, dtype=self.high), 'activation': torch.zeros(t, k, lanes, dtype=self.high), 'down': torch.zeros(t, k, p.config.hidden, dtype=self.high)} -> stages = {'gate_up': torch.zeros(t, k, 2 * lanes, dtype=self.high), 'activation': torch.zeros(t, k, lanes, dtype=self.high), 'down': torch.zeros(t, k, p.config.hidden)}",
            "Plain.trace: weights = torch.zeros(t, k, dtype=self.high) -> weights = torch.zeros(t, k)",
        ),
        "the assignment, or the addition, converts to float32 itself": (
            "Plain.trace: weights[at] = routing.weights[at].to(self.high) -> weights[at] = routing.weights[at]",
            "Plain.expert: gate_up = self.add_gate_up_bias(gate_up, p['gate_up_bias'][local].to(x)) -> gate_up = self.add_gate_up_bias(gate_up, p['gate_up_bias'][local])",
            "Plain.expert: bias = p['down_bias'][local].to(x) -> bias = p['down_bias'][local]",
            "Plain.forward_fused: logits = logits + router_bias.float() -> logits = logits + router_bias",
            "TorchDense.forward_fused: logits = logits + router_bias.float() -> logits = logits + router_bias",
        ),
        "an output in float32 is accepted, and finer": (
            "Plain.trace: total = self.mix(weights, stages['down']).to(hidden_states.dtype) -> total = self.mix(weights, stages['down'])",
            "TorchDense.trace: combine = torch.einsum('te,teh->th', mix, down).to(hidden_states.dtype) -> combine = torch.einsum('te,teh->th', mix, down)",
        ),
        "an addition commutes": (
            "Plain.expert: gate_up = self.add_gate_up_bias(gate_up, p['gate_up_bias'][local].to(x)) -> gate_up = self.add_gate_up_bias(p['gate_up_bias'][local].to(x), gate_up)",
        ),
        "slots are not rounded in this candidate: the line is not reached": (
            "Plain.expert: down = down.to(self.slot).to(self.high) -> down = down.to(self.slot)",
            "Plain.expert: down = down.to(self.slot).to(self.high) -> down = down.to(self.high)",
        ),
        "the two edits undo each other; alone each is caught": (
            "pack: e, rows = (slice(owned.start, owned.stop), slice(2 * lanes.start, 2 * lanes.stop)) -> e, rows = (slice(2 * lanes.start, 2 * lanes.stop), slice(owned.start, owned.stop)) ; pack: e, rows = (slice(owned.start, owned.stop), slice(2 * lanes.start, 2 * lanes.stop)) -> rows, e = (slice(owned.start, owned.stop), slice(2 * lanes.start, 2 * lanes.stop))",
        ),
        "a slice from 0 starts where one without a start does": (
            "TorchDense.trace: gate = gate_up[..., 0::2].clamp_max(activation.limit) -> gate = gate_up[..., ::2].clamp_max(activation.limit)",
        ),
        "infinities become the largest finite numbers, which no logit of a model is: the order of the rest is the same": (
            "TorchDense.route: left = logits.float().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf) -> left = logits.float().nan_to_num(nan=torch.inf, posinf=torch.inf)",
            "TorchDense.route: left = logits.float().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf) -> left = logits.float().nan_to_num(nan=torch.inf, neginf=-torch.inf)",
        ),
        "the lengths are equal": (
            "_decode_experts: for out, b, s in zip(weights, blocks, scales, strict=True): -> for out, b, s in zip(weights, blocks, scales, strict=False):",
        ),
        "routing weights arrive in float32": (
            "TorchDense.trace: mix = torch.where(hit, routing.weights.float()[..., None], 0).sum(dim=1) -> mix = torch.where(hit, routing.weights[..., None], 0).sum(dim=1)",
        ),
        "a comparison of bfloat16 numbers is exact": (
            "TorchDense.route: left = logits.float().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf) -> left = logits.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)",
        ),
        "alone each edit mixes dtypes and raises; together the router logits are bfloat16, as the activations are, which is accepted": (
            "TorchDense.forward_fused: logits = hidden_states.float() @ router_weight.float().T -> logits = hidden_states @ router_weight.float().T ; TorchDense.forward_fused: logits = hidden_states.float() @ router_weight.float().T -> logits = hidden_states.float() @ router_weight.T",
        ),
    }
)
"""Why -> edits that are equivalent, or as good as that."""
