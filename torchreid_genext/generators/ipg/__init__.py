"""IPG, Pose2ID's identity-guided pedestrian generator (CVPR 2025): the person of an image in another pose."""

from __future__ import annotations

from torchreid_genext.generators.ipg.attention import Seen
from torchreid_genext.generators.ipg.conditions import IdentityProjector, PoseGuider
from torchreid_genext.generators.ipg.denoiser import IPGDenoiser, without_head
from torchreid_genext.generators.ipg.embedded import PatchAutoencoder, PrincipalAutoencoder, TorchreidEncoder
from torchreid_genext.generators.ipg.guidance import Poses, References
from torchreid_genext.generators.ipg.loading import load_any
from torchreid_genext.generators.ipg.pipeline import IPGPipeline, IPGPipelineOutput, official_scheduler
from torchreid_genext.generators.ipg.sampler import IPGSampler, Sampling
from torchreid_genext.generators.ipg.transreid import TransReID

__all__ = [
    "IPGDenoiser", "IPGPipeline", "IPGPipelineOutput", "IPGSampler", "IdentityProjector", "PatchAutoencoder",
    "PoseGuider", "Poses", "PrincipalAutoencoder", "References", "Sampling", "Seen", "TorchreidEncoder",
    "TransReID", "load_any", "official_scheduler", "without_head",
]  # fmt: skip
