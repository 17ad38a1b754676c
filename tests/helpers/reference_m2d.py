"""M2D in float64 numpy, written from the published numbers alone: the fast encoder is compared with it.

Shares no line with the package: its own transform, filter bank, unit cutting and transformer, as plain as possible.
"""

import math

import numpy as np

GRID = np.linspace(-6, 6, 12 * 1024 + 1)  # erf is +-1 to the last digit beyond
ERF = np.array([math.erf(x) for x in GRID])
SLOPE = 2 / math.sqrt(math.pi) * np.exp(-(GRID**2)) / 1024


def erf(x):
    """math.erf for arrays: cubic Hermite pieces between exact values and slopes, within 1e-14."""
    place = np.clip((x + 6) * 1024, 0, 12 * 1024 - 1e-9)
    i = place.astype(np.int64)
    t = place - i
    return (
        (1 + 2 * t) * (1 - t) ** 2 * ERF[i]
        + t * (1 - t) ** 2 * SLOPE[i]
        + t * t * (3 - 2 * t) * ERF[i + 1]
        + t * t * (t - 1) * SLOPE[i + 1]
    )


def hz_to_slaney(f):
    """Linear up to 1 kHz (200/3 Hz a mel), then 27 mels for a factor of 6.4."""
    return np.where(f < 1000, f / (200 / 3), 15 + 27 * np.log(np.maximum(f, 1e-9) / 1000) / np.log(6.4))


def slaney_to_hz(m):
    return np.where(m < 15, m * (200 / 3), 1000 * np.exp(np.log(6.4) * (m - 15) / 27))


def filter_bank(rate, n_fft, f_max, f_min=50.0, bands=80):
    """(bands, bins): triangles on the Slaney scale, each of area one."""
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    edges = slaney_to_hz(np.linspace(hz_to_slaney(np.float64(f_min)), hz_to_slaney(np.float64(f_max)), bands + 2))
    bank = np.zeros((bands, len(bins)))
    for b in range(bands):
        low, centre, high = edges[b : b + 3]
        rising = (bins - low) / (centre - low)
        falling = (high - bins) / (high - centre)
        bank[b] = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    return bank


def log_mel(samples, rate=16_000, mean=-7.1, std=4.2):
    """The whole recording at once: (n,) -> (80, 1 + n // hop), normalised."""
    n_fft, hop, f_max = {16_000: (400, 160, 8_000.0), 32_000: (800, 320, 16_000.0)}[rate]
    x = np.pad(np.asarray(samples, np.float64), n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = 1 + len(samples) // hop
    pieces = np.stack([x[f * hop : f * hop + n_fft] for f in range(frames)])
    power = np.abs(np.fft.rfft(pieces * window, axis=1)) ** 2
    mel = filter_bank(rate, n_fft, f_max) @ power.T
    return (np.log(mel + np.finfo(np.float32).eps) - mean) / std


def layer_norm(x, weight, bias, eps=1e-6):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def encode_unit(lms, state):
    """One unit (80, frames) -> features (columns, 5 x width)."""
    w = {key: value.astype(np.float64) for key, value in state.items()}
    width = w["cls_token"].shape[-1]
    heads = width // 64
    position = w["pos_embed"][0]
    full_columns = (len(position) - 1) // 5
    columns = lms.shape[1] // 16
    tokens = [w["cls_token"][0, 0] + position[0]]
    for row in range(5):
        for column in range(columns):
            patch = lms[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            token = w["patch_embed.proj.weight"].reshape(width, 256) @ patch.reshape(256) + w["patch_embed.proj.bias"]
            tokens.append(token + position[1 + row * full_columns + column])
    x = np.stack(tokens)
    depth = 1 + max(int(key.split(".")[1]) for key in w if key.startswith("blocks."))
    for i in range(depth):
        p = {key.removeprefix(f"blocks.{i}."): value for key, value in w.items() if key.startswith(f"blocks.{i}.")}
        h = layer_norm(x, p["norm1.weight"], p["norm1.bias"])
        q, k, v = np.split(h @ p["attn.qkv.weight"].T + p["attn.qkv.bias"], 3, axis=1)
        out = np.empty_like(h)
        for head in range(heads):
            part = slice(head * 64, head * 64 + 64)
            scores = q[:, part] @ k[:, part].T / 8  # sqrt(64)
            scores = np.exp(scores - scores.max(1, keepdims=True))
            out[:, part] = scores / scores.sum(1, keepdims=True) @ v[:, part]
        x = x + out @ p["attn.proj.weight"].T + p["attn.proj.bias"]
        h = layer_norm(x, p["norm2.weight"], p["norm2.bias"])
        h = gelu(h @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
        x = x + h @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
    x = layer_norm(x, w["norm.weight"], w["norm.bias"])[1:]
    return np.stack([np.concatenate([x[row * columns + column] for row in range(5)]) for column in range(columns)])


def features(samples, state, *, unit_frames, rate=16_000, mean=-7.1, std=4.2):
    """A whole recording -> (patch columns, 5 x width)."""
    lms = log_mel(samples, rate, mean, std)
    columns = (state["pos_embed"].shape[1] - 1) // 5
    parts = []
    for start in range(0, lms.shape[1], unit_frames):
        unit = lms[:, start : start + unit_frames]
        missing = -unit.shape[1] % 16
        if unit.shape[1] < unit_frames:
            unit = np.pad(unit, ((0, 0), (0, missing)))
        parts.append(encode_unit(unit[:, : columns * 16], state))
    return np.concatenate(parts)


def track(samples, state, **options):
    """The embedding of a whole recording: the mean over all its patch columns."""
    return features(samples, state, **options).mean(0)


def audio_vector(samples, state, projector, *, unit_frames, rate=16_000):
    """The audio vector of a clip of one unit, of length one, by a CLAP checkpoint's tensors ``audio_proj.*``."""
    lms = log_mel(samples, rate)
    assert lms.shape[1] <= unit_frames
    if lms.shape[1] < unit_frames:
        lms = np.pad(lms, ((0, 0), (0, -lms.shape[1] % 16)))
    columns = (state["pos_embed"].shape[1] - 1) // 5
    found = encode_unit(lms[:, : columns * 16], state)  # (columns, 5 x width)
    tokens = found.reshape(len(found) * 5, -1)
    w = {key.removeprefix("audio_proj."): value.astype(np.float64) for key, value in projector.items()}
    if "sem_token" in w:
        y = semantic(tokens, w)
    else:
        y = tokens.mean(0)
        if w:
            y = np.maximum(0, w["0.weight"] @ y + w["0.bias"])
            y = w["2.weight"] @ y + w["2.bias"]
    return y / np.sqrt(y @ y)


def text_vector(ids, bert, text_proj, pooling):
    """The vector of length one of a text's tokens by BERT and the layers after it; ``pooling``: first or mean."""
    w = {key: value.astype(np.float64) for key, value in (bert | text_proj).items()}

    def norm(x, name):
        return layer_norm(x, w[f"{name}.LayerNorm.weight"], w[f"{name}.LayerNorm.bias"], 1e-12)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    parts = [w[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "position", "token_type")]
    x = norm(parts[0][ids] + parts[1][: len(ids)] + parts[2][0], "embeddings")
    for i in range(1 + max(int(key.split(".")[2]) for key in w if key.startswith("encoder.layer."))):
        layer = f"encoder.layer.{i}"
        q, k, v = (linear(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        heads = []
        for part in np.split(np.arange(x.shape[1]), x.shape[1] // 64):
            scores = q[:, part] @ k[:, part].T / 8  # sqrt(64)
            scores = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        x = norm(
            x + linear(np.concatenate(heads, axis=1), f"{layer}.attention.output.dense"), f"{layer}.attention.output"
        )
        x = norm(x + linear(gelu(linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense"), f"{layer}.output")
    y = x[0] if pooling == "first" else x.mean(0)
    if "text_proj.0.weight" in w:
        y = linear(np.maximum(0, linear(y, "text_proj.0")), "text_proj.2")
    else:
        y = linear(y, "text_proj")
    return y / np.sqrt(y @ y)


def semantic(tokens, w):
    """A token before all others, ordinary pre-norm blocks with one head, the norm of the first token."""
    x = np.concatenate([w["sem_token"][0], tokens])
    width = x.shape[1]
    for i in range(1 + max(int(key.split(".")[1]) for key in w if key.startswith("sem_blocks."))):
        p = {key.removeprefix(f"sem_blocks.{i}."): value for key, value in w.items()}
        h = layer_norm(x, p["norm1.weight"], p["norm1.bias"], 1e-5)
        q, k, v = np.split(h @ p["attn.qkv.weight"].T + p.get("attn.qkv.bias", 0), 3, axis=1)
        scores = q @ k.T / math.sqrt(width)
        scores = np.exp(scores - scores.max(1, keepdims=True))
        h = scores / scores.sum(1, keepdims=True) @ v
        x = x + h @ p["attn.proj.weight"].T + p["attn.proj.bias"]
        h = gelu(layer_norm(x, p["norm2.weight"], p["norm2.bias"], 1e-5) @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
        x = x + h @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
    return layer_norm(x[0], w["norm.weight"], w["norm.bias"], 1e-5)
