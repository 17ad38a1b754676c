"""How a built-in name or a checkpoint becomes an encoder. Imports torch only inside ``load_encoder``."""

from pathlib import Path

from indexer.encoders.encoder import BUILT_IN, Encoder, EncoderInfo


def built_in_info() -> EncoderInfo:
    """Describe the encoder that needs no download."""
    from indexer.encoders.rhythm import RhythmEncoder

    encoder = RhythmEncoder()
    return EncoderInfo(encoder.id, encoder.name, encoder.width, encoder.sample_rate_hz, encoder.unit_s, BUILT_IN)


def load_encoder(source: str | Path, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Load the built-in encoder by its name, or a converted checkpoint (``model.safetensors``) by its path.

    device: auto (cuda, else mps, else cpu), cpu, cuda or mps. precision: auto (bf16 on cuda and on processors that multiply
    it, fp32 elsewhere), fp32 or bf16. The built-in encoder runs on the CPU in float64 whatever they say. Raises ModelError
    for a file that is damaged or not ours, an unknown option, or a device that is not there.
    """
    if source == BUILT_IN:
        from indexer.encoders.rhythm import RhythmEncoder

        return RhythmEncoder()
    from indexer.encoders.m2d.encoder import M2DEncoder

    return M2DEncoder(Path(source), device=device, precision=precision)
