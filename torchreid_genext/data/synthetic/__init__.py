"""SynthReID: an embedded world of people, clothes, cameras and time, drawn with Pillow and true to the last
joint.

`render` draws anybody in any pose, view and camera; `write_dataset` fills a folder in Market-1501's layout.
"""

from torchreid_genext.data.synthetic.body import Pose, View
from torchreid_genext.data.synthetic.cameras import CAMERAS, Camera
from torchreid_genext.data.synthetic.contact import contact_sheet
from torchreid_genext.data.synthetic.obstacles import OCCLUDERS, Occluder
from torchreid_genext.data.synthetic.people import (
    Bag,
    Body,
    Garment,
    Head,
    Identity,
    Material,
    Print,
    random_identity,
)
from torchreid_genext.data.synthetic.render import (
    Rendering,
    render,
    render_scene,
    render_with_joints,
)
from torchreid_genext.data.synthetic.world import MODES, SIZES
from torchreid_genext.data.synthetic.writing import (
    VERSION,
    Manifest,
    read_manifest,
    write_dataset,
)

__all__ = [
    "Bag",
    "Body",
    "CAMERAS",
    "Camera",
    "Garment",
    "Head",
    "Identity",
    "MODES",
    "Manifest",
    "Material",
    "OCCLUDERS",
    "Occluder",
    "Pose",
    "Print",
    "Rendering",
    "SIZES",
    "VERSION",
    "View",
    "contact_sheet",
    "random_identity",
    "read_manifest",
    "render",
    "render_scene",
    "render_with_joints",
    "write_dataset",
]
