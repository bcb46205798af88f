"""One sampled segment of a Wan model with a side branch, in numpy and float64: a second reading of the public facts.

Written from the descriptions of Wan2.2, VACE and UniPC and not from this project's code, of which it takes the
parameter arrays alone. Nothing is padded, masked or compiled here: a frame that does not exist is not there.
"""

import numpy as np

SHIFT = 5.0
EPS = 1e-6
SIDE_EVERY = 2


def grid(steps):
    """Wan's own noise levels `[steps + 1]`, down to 0, and the timesteps `[steps]` that go with them."""
    even = np.linspace(0.999, 0, steps + 1)[:-1]
    sigmas = SHIFT * even / (1 + (SHIFT - 1) * even)
    return np.append(sigmas, 0.0), np.trunc(1000 * sigmas)


def reference_times(count):
    """Of so many references, best first: they end where the segment begins, however many there could be."""
    return np.arange(-count, 0)


def sample(
    params,
    noise,
    first,
    preceding,
    references,
    control,
    text,
    *,
    heads,
    steps,
    patch=(2, 2),
    negative=None,
    scale=1.0,
    levels=None,
    fresh=None,
):
    """The clean latents `[T, h, w, C]` of a segment, the given first frame included.

    Args:
      params: `{'dit': .., 'side': ..}`, nested dicts of arrays; LoRA is merged already.
      noise: `[T, h, w, C]`.
      first: `[h, w, C]`, the clean frame that the segment begins with.
      preceding: `[p, h, w, C]`, those before it, oldest first, as many as there are.
      references: `[k, h, w, C]`, best first, as many as there are.
      control: `[T + p, h, w, Cc]`, of the target and the preceding frames.
      text: `[tokens, dim]`.
      heads: attention heads.
      steps: of the sampler.
      patch: rows and columns of latents in a token.
      negative: `[tokens, dim]`, what guidance of that scale leads away from; None without guidance.
      levels: sigmas `[steps]` of a model that was distilled to them; None samples by UniPC on Wan's grid.
      fresh: `[steps, T, h, w, C]` noise that such a model's predictions are put back into.
    """
    params = _as_float64(params)
    noise, first, preceding, references, control, text = (
        np.asarray(x, np.float64) for x in (noise, first, preceding, references, control, text)
    )
    sigmas, timesteps = grid(steps)

    if levels is not None:
        sigmas, timesteps = np.append(levels, 0.0), 1000 * np.asarray(levels)

    def clean(x, step):
        def flow(text):
            return network(params, x, timesteps[step], preceding, references, control, text, heads=heads, patch=patch)

        found = flow(text)
        if negative is not None:
            away = flow(np.asarray(negative, np.float64))
            found = away + scale * (found - away)
        return x - sigmas[step] * found

    def imposed(x):
        return np.concatenate([first[None], x[1:]])

    if levels is not None:
        x = noise
        for step in range(steps):
            guess = clean(imposed(x), step)
            x = (1 - sigmas[step + 1]) * guess + sigmas[step + 1] * np.asarray(fresh[step], np.float64)
        return imposed(x)
    return unipc(clean, noise, sigmas, imposed)


def unipc(clean, x, sigmas, imposed):
    """UniPC (Zhao et al. 2023), variant bh2, order 2, on predictions of the clean sample, order 1 at both ends.

    Args:
      clean: `(x, step) -> x0`.
      x: pure noise.
      sigmas: `[steps + 1]`; `alpha = 1 - sigma`.
      imposed: what is done to every sample that the network is shown, and to the last.
    """
    steps = len(sigmas) - 1
    with np.errstate(divide="ignore"):
        half_log_snr = np.log(1 - sigmas) - np.log(sigmas)
    guesses, start, order = [], None, 0
    x = imposed(x)
    for step in range(steps):
        guesses.append(clean(x, step))
        if step:
            x = imposed(_update(start, guesses, sigmas, half_log_snr, step, order, correct=True))
        start, order = x, 1 if step in (0, steps - 1) else 2
        x = imposed(_update(start, guesses, sigmas, half_log_snr, step + 1, order, correct=False))
    return x


def _update(start, guesses, sigmas, half_log_snr, to, order, correct):
    """From `start` at level `to - 1` to level `to`; the corrector knows the guess at level `to` already."""
    at = to - 1
    h = half_log_snr[to] - half_log_snr[at]
    phi = np.expm1(-h)  # bh2: B(h) is the same
    differences, ratios = [], []
    if order == 2:
        ratio = (half_log_snr[at - 1] - half_log_snr[at]) / h
        differences.append((guesses[at - 1] - guesses[at]) / ratio)
        ratios.append(ratio)
    if correct:
        differences.append(guesses[to] - guesses[at])
        ratios.append(1.0)
    if len(differences) == 1:
        weights = [0.5]
    elif differences:
        first = phi / -h - 1
        second = first / -h - 0.5
        matrix = [[1.0, 1.0], ratios]
        weights = np.linalg.solve(matrix, [first / phi, 2 * second / phi])
    else:
        weights = []
    bent = sum((weight * difference for weight, difference in zip(weights, differences, strict=True)), 0.0)
    return sigmas[to] / sigmas[at] * start - (1 - sigmas[to]) * phi * (guesses[at] + bent)


def network(params, target, timestep, preceding, references, control, text, *, heads, patch):
    """The flow `[T, h, w, C]` at the target frames."""
    dit, side = params["dit"], params["side"]
    frames = len(target)
    rows, columns = target.shape[1] // patch[0], target.shape[2] // patch[1]
    a_frame = rows * columns

    # reference | target | preceding
    latents = np.concatenate([references, target, preceding])
    times = np.concatenate([reference_times(len(references)), np.arange(frames + len(preceding))])
    of_reference = np.arange(len(latents)) < len(references)
    noisy = (times > 0) & (times < frames)
    positions = [
        (time, row + rows * far, column)
        for time, far in zip(times, of_reference, strict=True)
        for row in range(rows)
        for column in range(columns)
    ]
    head_dim = dit["patch_embedding"]["bias"].shape[0] // heads
    turns = _turns(np.array(positions, np.float64), head_dim)

    frame_time = _time_embedding(dit["time_embedding"], np.where(noisy, timestep, 0.0))
    time = np.repeat(frame_time, a_frame, axis=0)
    projected = _linear(dit["time_embedding"]["projection"], _silu(time)).reshape(len(time), 6, -1)
    words = _linear(dit["text_embedding"]["down"], _gelu(_linear(dit["text_embedding"]["up"], text)))

    x = _linear(dit["patch_embedding"], _patches(latents, patch))
    skipped = len(references) * a_frame
    hints = _side_branch(side, control, x[skipped:], projected[skipped:], turns[skipped:], words, heads, patch)
    for index in range(sum(name.startswith("blocks_") for name in dit)):
        x = _block(dit[f"blocks_{index}"], x, projected, turns, words, heads)
        if index % SIDE_EVERY == 0:
            x[skipped:] += hints[index // SIDE_EVERY]

    x, time = (value[skipped : skipped + frames * a_frame] for value in (x, time))
    shift, scale = (dit["head"]["modulation"][i] + time for i in (0, 1))
    out = _linear(dit["head"]["linear"], _layer_norm(x) * (1 + scale) + shift)
    out = out.reshape(frames, rows, columns, *patch, -1)
    return out.transpose(0, 1, 3, 2, 4, 5).reshape(target.shape)


def _side_branch(side, control, x, projected, turns, words, heads, patch):
    """What is added after DiT blocks 0, 2, ..: one `[tokens, dim]` for each block of the branch."""
    c, hints = _linear(side["patch_embedding"], _patches(control, patch)), []
    for index in range(sum(name.startswith("blocks_") for name in side)):
        block = side[f"blocks_{index}"]
        if index == 0:
            c = _linear(block["join"], c) + x
        c = _block(block["block"], c, projected, turns, words, heads)
        hints.append(_linear(block["hint"], c))
    return hints


def _block(block, x, projected, turns, words, heads):
    shift1, scale1, gate1, shift2, scale2, gate2 = (block["modulation"][i] + projected[:, i] for i in range(6))
    y = _layer_norm(x) * (1 + scale1) + shift1
    x = x + gate1 * _attention(block["self_attention"], y, y, heads, turns)
    y = _layer_norm(x) * block["cross_norm"]["scale"] + block["cross_norm"]["bias"]
    x = x + _attention(block["cross_attention"], y, words, heads, None)
    y = _layer_norm(x) * (1 + scale2) + shift2
    return x + gate2 * _linear(block["ffn"]["down"], _gelu(_linear(block["ffn"]["up"], y)))


def _attention(layer, x, context, heads, turns):
    q = _rms_norm(_linear(layer["q"], x)) * layer["norm_q"]["weight"]
    k = _rms_norm(_linear(layer["k"], context)) * layer["norm_k"]["weight"]
    v = _linear(layer["v"], context)
    q, k, v = (value.reshape(len(value), heads, -1) for value in (q, k, v))
    if turns is not None:
        q, k = _rotated(q, turns), _rotated(k, turns)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v)
    return _linear(layer["o"], mixed.reshape(len(x), -1))


def _turns(positions, head_dim):
    """Unit complex numbers `[tokens, head_dim / 2]`: time takes what height and width, a third each, leave."""
    third = 2 * (head_dim // 6)
    angles = []
    for axis, width in enumerate((head_dim - 2 * third, third, third)):
        frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
        angles.append(positions[:, axis, None] * frequencies)
    return np.exp(1j * np.concatenate(angles, axis=-1))


def _rotated(x, turns):
    """Pairs of neighbours turned as complex numbers; `x` is `[tokens, heads, head_dim]`."""
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turns[:, None]
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)


def _time_embedding(layers, timesteps):
    half = layers["up"]["kernel"].shape[0] // 2
    angles = timesteps[:, None] * 10000.0 ** (-np.arange(half) / half)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    return _linear(layers["down"], _silu(_linear(layers["up"], waves)))


def _patches(latents, patch):
    """`[frames, h, w, C]` as tokens `[frames * h/p * w/q, p * q * C]`."""
    frames, height, width, channels = latents.shape
    p, q = patch
    split = latents.reshape(frames, height // p, p, width // q, q, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(-1, p * q * channels)


def _linear(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)


def _rms_norm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)


def _silu(x):
    return x / (1 + np.exp(-x))


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _as_float64(tree):
    if isinstance(tree, dict):
        return {name: _as_float64(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)
