"""Faults by people who knew neither the explanations nor the planted faults.

Each is an edit of one of the honest kernels in ``kernels/``. What must be said was
written down before any was judged; `blind` is what the suite said then. Where that
was not the cause, a comment tells the one that is to be named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"


@dataclass(frozen=True, kw_only=True)
class OutsideFault:
    """Edits of the source of a kernel, and what is said of it.

    fault : what is wrong, one sentence. edits : each text, which stands there once, and
    what stands in its place. incident : a public report of the like. blind : what the
    first run gave: the cause was "named", "partly", or "wrong". says : what the first
    failure or a cause of the summary must hold; empty where no cause is claimed.
    """

    name: str
    kernel: str
    fault: str
    edits: tuple[tuple[str, str], ...]
    says: str = ""
    blind: str = "named"
    incident: str = ""

    def source(self) -> str:
        """The kernel with the fault in it."""
        text = (KERNELS / f"{self.kernel}.py").read_text("utf-8")
        for right, wrong in self.edits:
            text = text.replace(right, wrong)
        return text


OUTSIDE_FAULTS = (
    # By the first of them.
    OutsideFault(
        name="routing_weights_never_multiplied",
        kernel="sorted_groups",
        fault="The results of the slots are added without their routing weights.",
        edits=(("self.combine(y * weights,", "self.combine(y,"),),
        says="routing weights ignored (1 each)",
        incident="triton-lang/triton#6527",
    ),
    OutsideFault(
        name="plain_swiglu",
        kernel="sorted_groups",
        fault="alpha, beta and the limit are not passed on: plain silu(gate) * up.",
        edits=(
            ("gate = z[:, 0::2].clamp(max=a.limit)", "gate = z[:, 0::2]"),
            ("up = z[:, 1::2].clamp(-a.limit, a.limit)", "up = z[:, 1::2]"),
            ("torch.sigmoid(a.alpha * gate)", "torch.sigmoid(gate)"),
            ("(up + a.beta)", "up"),
        ),
        says="plain silu(gate) * up",
        incident="vllm-project/vllm#46645",
    ),
    OutsideFault(
        name="low_nibbles_first",
        kernel="sorted_groups",
        fault="A block's low nibbles are its first 16 codes, the high ones the last.",
        edits=(
            (
                "torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2)",
                "torch.cat((blocks & 15, blocks >> 4), -1)",
            ),
        ),
        says="low nibbles of each block of gate_up and down first",
        incident="kekzl/imp#690",
    ),
    OutsideFault(
        name="down_bias_not_weighted",
        kernel="sorted_groups",
        fault="The down bias is added to a slot without its routing weight.",
        edits=(
            ("v if b2 is None else v + b2", "v * w if b2 is None else v * w + b2"),
            (
                "            v = self.gemm2(",
                "            w = weights[lo:hi]\n            v = self.gemm2(",
            ),
            ("self.combine(y * weights,", "self.combine(y,"),
        ),
        says="down bias added once a slot, not weighted",
        incident="radixark/Megatron-LM#79",
    ),
    OutsideFault(
        name="alpha_and_limit_swapped",
        kernel="loader_and_consumer",
        fault="swiglu_alpha holds the limit and swiglu_limit alpha.",
        edits=(
            ('("alpha", a.alpha)', '("alpha", a.limit)'),
            ('("limit", a.limit)', '("limit", a.alpha)'),
        ),
        says="swiglu_alpha: holds swiglu_limit",
        incident="vllm-project/vllm#46645",
    ),
    OutsideFault(
        name="routing_weights_on_the_input",
        kernel="sorted_groups",
        fault="The routing weights multiply the hidden states, not the results.",
        edits=(
            ("x[slots // k].float()", "x[slots // k].float() * weights"),
            ("self.combine(y * weights,", "self.combine(y,"),
        ),
        says="routing weight multiplies the input",
        incident="vllm-project/vllm#16744",
    ),
    # Cause: experts are added more than once, where their number is no multiple of 4.
    OutsideFault(
        name="scheduler_wraps_around",
        kernel="sorted_groups",
        fault="Experts come by fours, modulo their number: the first ones twice.",
        edits=(
            (
                "for j in range(len(own))",
                "for block in range(0, len(own), 4)\n"
                "            for j in ((block + n) % len(own) for n in range(4))",
            ),
            ("y[lo:hi] = v if", "y[lo:hi] += v if"),
        ),
        says="added once for each e of a grid of experts rounded up to a multiple of 4",
        blind="partly",
        incident="ModelTC/LightLLM#1369",
    ),
    OutsideFault(
        name="tiles_numbered_by_the_wrong_grid",
        kernel="sorted_groups",
        fault="A tile of GEMM2 divides its number by the wrong side of the grid.",
        edits=(
            (
                "        return a @ w2.T\n",
                """\
        y = a.new_zeros(len(a), len(w2))
        grid_m, grid_n = -(-len(a) // 16), -(-len(w2) // 64)
        for pid in range(grid_m * grid_n):
            m, n = 16 * (pid % grid_n), 64 * (pid // grid_m)
            y[m : m + 16, n : n + 64] = a[m : m + 16] @ w2[n : n + 64].T
        return y
""",
            ),
        ),
        says="down nothing but its bias, in columns 64..159 only",
        incident="meta-pytorch/applied-ai#25",
    ),
    OutsideFault(
        name="down_bias_on_ep_rank_0_only",
        kernel="sorted_groups",
        fault="The down bias is added on rank 0 of expert parallelism only.",
        edits=(("/ p.shard.tp_size", "/ p.shard.tp_size * (p.shard.ep_rank == 0)"),),
        says="down bias on rank 0 of ep only",
    ),
    OutsideFault(
        name="biases_of_the_first_experts",
        kernel="loader_and_consumer",
        fault="Every rank of expert parallelism takes the biases of the first experts.",
        edits=(
            ("weights.gate_up_bias[experts]", "weights.gate_up_bias[: len(own)]"),
            ("weights.down_bias[experts]", "weights.down_bias[: len(own)]"),
        ),
        says="fc1_bias: the experts of ep rank 0, not 1",
        incident="vllm-project/vllm#27025",
    ),
    OutsideFault(
        name="slots_added_in_bfloat16",
        kernel="sorted_groups",
        fault="The weighted results of a token's slots are added up in bfloat16.",
        edits=(
            (
                "        return buffer.view(tokens, top_k, y.shape[1]).sum(1)\n",
                """\
        sums = buffer.new_zeros(tokens, y.shape[1], dtype=torch.bfloat16)
        for part in buffer.view(tokens, top_k, y.shape[1]).unbind(1):
            sums += part.bfloat16()
        return sums
""",
            ),
        ),
        says="slots rounded to bfloat16 and added up in it, in the order of slots",
        incident="vllm-project/vllm#15045",
    ),
    # Cause: row n is made zero where slot n (token * top_k + slot) has no expert here.
    OutsideFault(
        name="zeros_stored_by_slot",
        kernel="sorted_groups",
        fault="Slots of other ranks' experts store zeros in the row of their number.",
        edits=(
            (
                "        return self.combine(y * weights, slots, t, k).to(x.dtype)\n",
                """\
        out = self.combine(y * weights, slots, t, k)
        served = torch.isin(torch.arange(t * k), slots)
        out[~served[:t]] = 0
        return out.to(x.dtype)
""",
            ),
        ),
        says="row n is all zero where slot n = token * top_k + slot has no expert",
        blind="partly",
        incident="sgl-project/sglang#30485",
    ),
    # Cause: from token 32 on, the numbers of tokens of the first 32 are used.
    OutsideFault(
        name="counts_of_the_first_chunk",
        kernel="sorted_groups",
        fault="Tokens come by 32, and all use the experts' token counts of the first.",
        edits=(
            (
                """\
        t, k = routing.ids.shape
        slots, segments = self.schedule(p, routing.ids)
""",
                """\
        out, segments = [x[:0]], None
        for at in range(0, len(x), 32):
            ids, weights = (v[at : at + 32] for v in (routing.ids, routing.weights))
            slots, fresh = self.schedule(p, ids)
            segments = segments or fresh
            part = type(routing)(ids, weights)
            out.append(self.run(p, x[at : at + 32], part, slots, segments))
        return torch.cat(out)

    def run(self, p, x, routing, slots, segments):
        t, k = routing.ids.shape
        n = len(slots)
        segments = [(e, lo, min(hi, n)) for e, lo, hi in segments if lo < n]
""",
            ),
        ),
        says="chunks of 32: later chunks use the expert counts of the first",
        blind="partly",
        incident="vllm-project/vllm#20392",
    ),
    OutsideFault(
        name="workspace_not_cleared",
        kernel="sorted_groups",
        fault="The rows of the slots are kept between calls and never made zero.",
        edits=(
            ("    def load(", "    kept = {}\n\n    def load("),
            (
                "buffer = y.new_zeros(tokens * top_k, y.shape[1])",
                "shape = (tokens * top_k, y.shape[1])\n"
                "        buffer = self.kept.setdefault(shape, y.new_zeros(shape))",
            ),
        ),
        says="add what the former call left in row n, with that row's weight",
        incident="sgl-project/sglang#30895",
    ),
    # Cause: fc1_scales is swizzled with fewer columns than the padded tensor has.
    OutsideFault(
        name="swizzled_without_the_padding",
        kernel="loader_and_consumer",
        fault="Tiles of fc1_scales are addressed by h / 32, not by its padded number.",
        edits=(
            (
                "    out[:, swizzle_index(*s.shape[1:]).flatten()",
                "    index = swizzle_index(s.shape[1], ceil_to(columns, 4))\n"
                "    s = s[..., : index.shape[1]]\n"
                "    out[:, index.flatten()",
            ),
            ("s = pad_dim(s, 2, cols)", "columns, s = s.shape[2], pad_dim(s, 2, cols)"),
            ("return out.view(s.shape)", "return out.view(*s.shape[:2], cols)"),
        ),
        says="128x4 as if K were padded to a multiple of 128 only",
        blind="wrong",
        incident="ROCm/aiter#4108",
    ),
    # By the second of them.
    OutsideFault(
        name="last_blocks_of_k_in_no_split",
        kernel="tiled_gemms",
        fault="Splits of GEMM2 sum K / splits blocks, rounded down; the rest is lost.",
        edits=(("run = -(-groups // splits)", "run = groups // splits"),),
        says="K of GEMM2 read in whole steps of 128 only",
    ),
    OutsideFault(
        name="down_bias_whole_on_each_rank",
        kernel="rank_slices",
        fault="Every rank of tensor parallelism adds the whole down bias.",
        edits=((".float() / shard.tp_size", ".float()"),),
        says="down bias times 2: not divided by tp = 2",
    ),
    OutsideFault(
        name="down_bias_behind_the_weight",
        kernel="tiled_gemms",
        fault="The down bias is added behind the routing weight.",
        edits=(
            (
                "y[valid, cols] + b2[cols]",
                "y[valid, cols] * w[rows[valid]] + b2[cols]",
            ),
            (
                "        slots = torch.zeros(t * k, h)\n",
                "        slots = torch.zeros(t * k, h)\n"
                "        w = routing.weights.float().view(-1, 1)\n",
            ),
            ("(slots.view(t, k, h) * weights[..., None])", "slots.view(t, k, h)"),
        ),
        says="down bias added once a slot, not weighted",
    ),
    OutsideFault(
        name="ids_modulo_the_ranks_experts",
        kernel="rank_slices",
        fault="Experts of other ranks are served too, by id modulo the rank's number.",
        edits=(
            ("mine = (ids >= own.start) & (ids < own.stop)", "mine = ids >= 0"),
            ("ids - own.start, experts)", "ids % experts, experts)"),
        ),
        says="slots of other ranks' experts visit expert id % 4 of this rank",
    ),
    OutsideFault(
        name="bias_gate_before_up",
        kernel="loader_alone",
        fault="fc1_bias has the gate before the up of a pair, the weights behind it.",
        edits=(
            (
                "pairs(weights.gate_up_bias[experts].float())",
                "pairs(weights.gate_up_bias[experts].float()"
                ".unflatten(1, (-1, 2)).flip(2).flatten(1))",
            ),
        ),
        says="fc1_bias: stack gate, up instead of up, gate",
    ),
    OutsideFault(
        name="first_row_to_the_expert_before",
        kernel="tiled_gemms",
        fault="The first row of each expert's is searched out as the former expert's.",
        edits=(
            (
                "        slots = torch.zeros(t * k, h)\n",
                "        slots = torch.zeros(t * k, h)\n"
                "        groups = torch.searchsorted(ends, torch.arange(ends[-1]))\n",
            ),
            (
                "mine = order[ends[e] - counts[e] : ends[e]]",
                "mine = order[: len(groups)][groups == e]",
            ),
        ),
        says="contents of the expert that the slot at p - 1 has, not of its own",
    ),
    OutsideFault(
        name="scales_cut_without_the_padding",
        kernel="rank_slices",
        fault="A rank's down scales begin at rank * (i / 32 / tp), rounded down.",
        edits=(
            (
                "weights.down_scales[experts, :, groups]",
                "weights.down_scales[experts, :, first : first + len(lanes) // 32]",
            ),
            (
                "        parts = {\n",
                "        first = config.intermediate // 32 // shard.tp_size\n"
                "        first *= shard.tp_rank\n"
                "        parts = {\n",
            ),
        ),
        says="down scales begin one K block early",
    ),
    # Cause: all slots of a token read the row of its slot with the highest expert.
    OutsideFault(
        name="inverse_by_token",
        kernel="tiled_gemms",
        fault="The inverse permutation is indexed by token: its slots read one row.",
        edits=(
            (
                "        return (slots.view(t, k, h) * weights[..., None])",
                """\
        inverse = torch.zeros(t, dtype=torch.long)
        for n, slot in enumerate(order[: ends[-1]].tolist()):
            inverse[slot // k] = n
        rows = slots[order][inverse]
        return (rows[:, None] * weights[..., None])""",
            ),
        ),
        says="the slot of its token with the highest expert id, not its own",
        blind="partly",
    ),
    OutsideFault(
        name="clamped_before_the_bias",
        kernel="tiled_gemms",
        fault="The limits are put on the sums of GEMM1, and its bias is added behind.",
        edits=(
            ("def swiglu(z, a):", "def swiglu(z, a, bias):"),
            (
                "    return gate * torch.sigmoid(a.alpha * gate)",
                "    gate, up = gate + bias[0::2], up + bias[1::2]\n"
                "    return gate * torch.sigmoid(a.alpha * gate)",
            ),
            ("else 0.0\n", "else torch.zeros(len(w1))\n"),
            ("z = gemm(xs, w1, 64) + b1", "z = gemm(xs, w1, 64)"),
            ("swiglu(z, config.activation)", "swiglu(z, config.activation, b1)"),
        ),
        says="gate_up bias added behind the clamps",
    ),
    OutsideFault(
        name="stored_instead_of_added",
        kernel="rank_slices",
        fault="Of two tiles in flight the later stores over the earlier's tokens.",
        edits=(
            (
                "        for e in range(experts):",
                "        tiles = []\n        for e in range(experts):",
            ),
            (
                "out.index_add_(0, t, y * weights[slots][:, None])",
                "tiles.append((t, y * weights[slots][:, None]))",
            ),
            (
                "        return out.to(x.dtype)",
                """\
        for n in range(0, len(tiles), 2):
            before = out.clone()
            for t, part in tiles[n : n + 2]:
                out[t] = before[t] + part
        return out.to(x.dtype)""",
            ),
        ),
        says="a later tile of its group of 2 tiles of 16 rows (stored, not added?)",
    ),
    # Cause: slots without an expert (-1) add what an earlier call left in their rows.
    OutsideFault(
        name="scratch_not_cleared",
        kernel="tiled_gemms",
        fault="The rows of the slots are kept, and slots of -1 get their weight.",
        edits=(
            ("    def forward(", "    kept = {}\n\n    def forward("),
            (
                "slots = torch.zeros(t * k, h)",
                "slots = self.kept.setdefault((t * k, h), torch.zeros(t * k, h))",
            ),
            ("slots[rows[valid], cols] += ", "slots[rows[valid], cols] = "),
            (
                "torch.where(routing.ids >= 0, routing.weights.float(), 0.0)",
                "routing.weights.float()",
            ),
        ),
        says="slots without an expert (-1) add what the former call left in row n",
        blind="partly",
    ),
    OutsideFault(
        name="last_tile_moved_back",
        kernel="tiled_gemms",
        fault="The last tile of columns begins at h - 64, and is added where one was.",
        edits=(
            (
                "cols = slice(n, min(n + TILE_COLS, h))",
                "n = min(n, max(0, h - TILE_COLS))\n"
                "                cols = slice(n, min(n + TILE_COLS, h))",
            ),
        ),
        says="the output of columns 96..127 times 2",
    ),
    # Cause: the last row of an expert with 17, 33, ... rows is left out.
    OutsideFault(
        name="one_tile_too_few",
        kernel="tiled_gemms",
        fault="The number of tiles of n rows is (n + 14) // 16, at least 1.",
        edits=(
            (
                "tiles = -(-len(mine) // TILE_ROWS)",
                "tiles = max(1, (len(mine) + TILE_ROWS - 2) // TILE_ROWS)\n"
                "            mine = mine[: tiles * TILE_ROWS]",
            ),
        ),
        says="expert whose number of slots is a multiple of 16 plus 1",
        blind="partly",
    ),
    OutsideFault(
        name="sums_of_gemm1_in_bfloat16",
        kernel="tiled_gemms",
        fault="The sums of GEMM1 are rounded to bfloat16 before the bias.",
        edits=(("gemm(xs, w1, 64) + b1", "gemm(xs, w1, 64).bfloat16().float() + b1"),),
        says="result of GEMM1 rounded to bfloat16",
    ),
    OutsideFault(
        name="tiles_by_column",
        kernel="loader_alone",
        fault="The tiles of fc2_scales lie column by column.",
        edits=(
            (
                "swizzle(columns(scales2[experts], 32))",
                "swizzle(columns(scales2[experts], 32), (0, 4, 1, 3, 2, 5))",
            ),
            ("def swizzle(s):", "def swizzle(s, order=(0, 1, 4, 3, 2, 5)):"),
            ("tiles.permute(0, 1, 4, 3, 2, 5)", "tiles.permute(order)"),
        ),
        says="fc2_scales: scale swizzle 128x4: tiles by column, not by row",
    ),
)
