"""The node ``genext``: this plugin's keys, all of them off or at the sane value by default."""

from __future__ import annotations

from dataclasses import fields

from yacs.config import CfgNode

__all__ = ["STEP_NODES", "add_genext_config"]

# step -> the node of its keys
STEP_NODES = {
    "fuse": "ipg",
    "camera_norm": "camera_norm",
    "tracklets": "tracklets",
    "nfc": "nfc",
    "dba": "database_augmentation",
    "alpha_qe": "query_expansion",
    "st": "spatiotemporal",
    "rerank": "rerank",
}

_ENCODER = "osnet_x0_25@shipped:osnet_x0_25@128x64"
_IPG_PARTS = ("reference_unet", "denoising_unet", "pose_guider", "identity_projector")


def add_genext_config(cfg: CfgNode) -> None:
    """Add the plugin's own node to a tree, also to one that a user built; every switch is off."""
    cfg.genext = CfgNode()
    _add_evaluation(cfg)
    _add_steps(cfg)
    _add_augmentation(cfg)
    _add_tools(cfg)
    _add_identity_generator(cfg)
    _add_pose_generator(cfg)
    _add_adversarial_generators(cfg)
    _add_training(cfg)
    _add_sampling(cfg)


def _add_evaluation(cfg: CfgNode) -> None:
    cfg.genext.evaluation = CfgNode()
    cfg.genext.evaluation.enabled = False  # use this package's evaluator even when no step is on
    cfg.genext.evaluation.memory_limit = 0  # bytes for intermediate results; 0: the library's own default
    cfg.genext.evaluation.protocol = ""  # market1501 | plain | cuhk03 | streid | camstyle | genid; empty: the host's
    cfg.genext.evaluation.index = "exact"  # search for neighbours: exact, or through faiss flat | ivf | hnsw
    cfg.genext.evaluation.chain = ""  # steps as text, instead of those of the switches below
    cfg.genext.evaluation.device = "auto"  # where torchreid's engine compares features; auto: with the network


def _add_steps(cfg: CfgNode) -> None:
    """A node for each training-free step, made of the step itself: its switch and its fields."""
    from torchreid_genext.retrieval.steps import STEPS  # torch takes seconds to import

    for name, node in STEP_NODES.items():
        cfg.genext[node] = CfgNode({"enabled": False})
        for field in fields(STEPS[name]):
            cfg.genext[node][field.name] = field.default
    cfg.genext.ipg.eta = 2.0  # as Pose2ID's demo has it
    cfg.genext.ipg.root = ""  # a store, or a folder of query_gen/pose1, bounding_box_test_gen/pose1, ...
    cfg.genext.ipg.normalize_after = True  # L2, so that images with and without generated ones compare
    cfg.genext.ipg.generate = False  # first draw into the store at ipg.root what is missing there
    del cfg.genext.rerank["enabled"]  # the host's test.rerank is its switch


def _add_augmentation(cfg: CfgNode) -> None:
    # Data sets with generated images of their training people, such as market1501_ipg among data.sources.
    cfg.genext.augmented = CfgNode()
    cfg.genext.augmented.root = ""  # a store, or of bounding_box_train_gen/pose1 ...; empty: beside the data
    cfg.genext.augmented.ratio = 1.0  # generated images for each real one, on average; 0: none
    cfg.genext.augmented.camera = "same"  # of a generated one: same (the real one's) | new | per_pose | style
    cfg.genext.augmented.seed = 0  # of the choice among them
    cfg.genext.augmented.label_smoothing = 0.0  # of their labels only, in 0 .. 1; 0: as of real images
    cfg.genext.augmented.batch_ratio = ""  # real:generated in each batch, such as "3:1"; empty: at random
    cfg.genext.augmented.separate_passes = False  # of both, with two means (CamStyle); softmax only


def _add_tools(cfg: CfgNode) -> None:
    # How the benchmark tool extracts features; float32 is exact.
    cfg.genext.inference = CfgNode()
    cfg.genext.inference.precision = "fp32"  # fp32 | bf16 | auto (bf16 where the device has it)
    cfg.genext.inference.channels_last = False  # memory order of images; faster on most CPUs and GPUs
    cfg.genext.inference.flip = False  # mean over an image and its mirror image, at twice the cost
    cfg.genext.inference.compile = False  # torch.compile the backbone

    cfg.genext.benchmark = CfgNode()
    cfg.genext.benchmark.models = []  # '[label=]name[(options)][@weights][@HEIGHTxWIDTH]'; empty: that of model
    cfg.genext.benchmark.dataset = ""  # empty: the first of data.targets
    cfg.genext.benchmark.chains = ["base", "l2", "nfc"]  # each a chain, or a grid such as 'nfc(k1=1|2|4)'
    cfg.genext.benchmark.bootstrap = 1000  # resamplings of identities behind each interval; 0: no intervals
    cfg.genext.benchmark.seed = 0  # of those resamplings
    cfg.genext.benchmark.cache_dir = ""  # features by content; empty: <data.save_dir>/features
    cfg.genext.benchmark.open_set = True  # also verify pairs, and look for people who are not in the gallery
    cfg.genext.benchmark.compare_precision = False  # with bf16, also extract in fp32 and compare mAP
    cfg.genext.benchmark.strict = False  # stop at an unreadable image instead of listing it
    cfg.genext.benchmark.pictures = True  # write PNGs beside the report
    cfg.genext.benchmark.rank_lists = False  # write ranked galleries as JSON, CSV and a page to look at
    cfg.genext.benchmark.rank_list_queries = 200  # at most, the most telling first
    cfg.genext.benchmark.rank_list_depth = 10  # ranks of each list

    # How the tuning tool chooses a chain on the training split.
    cfg.genext.tune = CfgNode()
    cfg.genext.tune.chains = ["l2", "nfc", "camera_norm", "camera_norm+nfc"]  # and grids
    cfg.genext.tune.folds = 2  # parts of the identities; what is learnt from others is tried on one
    cfg.genext.tune.seed = 0  # of the choice of queries
    cfg.genext.tune.target = "mAP"  # mAP | rank1


def _add_identity_generator(cfg: CfgNode) -> None:
    # GenerativePersonReID: people generated from identity codes, and codes found in images.
    cfg.genext.identity = CfgNode()
    cfg.genext.identity.widths = [48, 96, 192, 384]  # channels of each level of all networks
    cfg.genext.identity.code_width = 32  # of an identity code
    cfg.genext.identity.official = False  # learn as the authors do, with their schedule

    cfg.genext.inverter = CfgNode()
    cfg.genext.inverter.hidden = [512, 128]  # dense layers before the code
    cfg.genext.inverter.data = ""  # synthetic | real | mixed; empty: mixed, officially synthetic

    # How genid_refined sharpens codes: by descending the error of denoising the image.
    cfg.genext.inverter.refine = CfgNode()
    cfg.genext.inverter.refine.generator = ""  # file of the trained generator
    cfg.genext.inverter.refine.steps = 5  # of Adam
    cfg.genext.inverter.refine.step_size = 0.01  # of Adam
    cfg.genext.inverter.refine.times = [0.3, 0.5]  # of the diffusion, in 0 .. 1


def _add_pose_generator(cfg: CfgNode) -> None:
    # IPG: a person of one image in the pose of another. These sizes are small; images are patches of pixels.
    cfg.genext.ipg.generator = CfgNode()
    cfg.genext.ipg.generator.init = ""  # folder of a pipeline to start from, or of the authors' files
    cfg.genext.ipg.generator.patch = 2  # pixels a side that become channels, in place of a VAE
    cfg.genext.ipg.generator.latent_channels = 0  # principal components of a patch; 0: its pixels
    cfg.genext.ipg.generator.widths = [32, 64, 96, 128]  # channels of each level of both U-Nets
    cfg.genext.ipg.generator.encoder = _ENCODER  # name@weights@HEIGHTxWIDTH, a torchreid model of people
    cfg.genext.ipg.generator.parts = list(_IPG_PARTS)  # which are trained
    cfg.genext.ipg.generator.lora_rank = 0  # of what trained U-Nets learn at their attention; 0: all weights
    cfg.genext.ipg.generator.gradient_checkpointing = False  # compute features twice instead of keeping them
    cfg.genext.ipg.generator.cache_latents = False  # encode images once, latents and identity; needs flip 0
    cfg.genext.ipg.generator.unconditional = 0.1  # share of images that are denoised for nobody
    cfg.genext.ipg.generator.snr_gamma = 5.0  # times with less noise than 1 / this count less; 0: none
    cfg.genext.ipg.generator.noise_bias = 0.0  # power of t with which time t is likelier; 0: all alike


def _add_adversarial_generators(cfg: CfgNode) -> None:
    # PG2 (NIPS 2017): a coarse image from a reference and a pose, then what it lacks.
    cfg.genext.pg2 = CfgNode()
    cfg.genext.pg2.weights = ""  # file of a training; that draws
    cfg.genext.pg2.channels = 128  # of the first level of both stages
    cfg.genext.pg2.discriminator_channels = 64  # of its first layer
    cfg.genext.pg2.official = True  # which sees single images, as authors code; False: pairs, as they write

    # Deformable GAN (CVPR 2018): skip connections take parts of the body to their new places.
    cfg.genext.deformable = CfgNode()
    cfg.genext.deformable.weights = ""  # file of a training; that draws
    cfg.genext.deformable.widths = [64, 128, 256, 512, 512, 512]  # channels of each level, there and back
    cfg.genext.deformable.skips = "deformable"  # deformable | full (one transform) | none
    cfg.genext.deformable.dropout = 0.5  # in training
    cfg.genext.deformable.discriminator_channels = [64, 128, 256, 512]  # of each layer
    cfg.genext.deformable.vgg19 = ""  # torchvision's weights, for its features; empty: oriented gradients

    # CamStyle (CVPR 2018): an image as another camera would have taken it. One model for all cameras.
    cfg.genext.camstyle = CfgNode()
    cfg.genext.camstyle.weights = ""  # file of a training, or folder of those of pairs; that draws
    cfg.genext.camstyle.channels = 64  # of the generator's first level
    cfg.genext.camstyle.blocks = 9  # residual
    cfg.genext.camstyle.discriminator_channels = 64  # of its first layer
    cfg.genext.camstyle.layers = 3  # of the discriminator
    cfg.genext.camstyle.pair = []  # two cameras: a CycleGAN of these alone, as the authors have; empty: all


def _add_training(cfg: CfgNode) -> None:
    cfg.genext.joints = ["poses.csv"]  # files with joints of people, in the data set's folder

    # How all of them are trained; what is left open is the stage's own, as recipes.training.schedules has it.
    cfg.genext.training = CfgNode()
    cfg.genext.training.steps = 0  # updates; 0: the stage's own
    cfg.genext.training.batch_size = 0  # of all processes together; 0: the stage's own
    cfg.genext.training.lr = 0.0  # learning rate; 0: the stage's own
    cfg.genext.training.weight_decay = -1.0  # decoupled (AdamW); -1: the stage's own
    cfg.genext.training.warmup = -1  # steps; -1: the stage's own
    cfg.genext.training.schedule = ""  # constant | cosine | linear (at the end); empty: the stage's own
    cfg.genext.training.clip_norm = -1.0  # of gradients; 0: none, -1: the stage's own
    cfg.genext.training.ema_decay = -1.0  # of the average of weights; 0: none, -1: the stage's own
    cfg.genext.training.flip = -1.0  # share of mirror images; -1: the stage's own
    cfg.genext.training.stages = []  # what holds for one alone, such as "prior(lr=1e-4,steps=3000)"
    cfg.genext.training.image_size = []  # height and width in pixels; empty: 128 x 64, of identity 64 x 32
    cfg.genext.training.partners = "any"  # any | same_camera; another image of a person
    cfg.genext.training.seed = 0  # of weights, order and noise
    cfg.genext.training.mixed_precision = "auto"  # no | bf16 | fp16 (accelerators) | auto (bf16 or no)
    cfg.genext.training.accumulation = 1  # batches a step
    cfg.genext.training.picture_every = 1000  # steps; 0: none
    cfg.genext.training.save_every = 1000  # steps
    cfg.genext.training.keep = 2  # newest checkpoints
    cfg.genext.training.resume = False  # go on from the newest checkpoint


def _add_sampling(cfg: CfgNode) -> None:
    # Which of them draws, and how. What is said of IPG is of no concern to the others.
    cfg.genext.generator = "ipg"  # ipg | pg2 | deformable draw people in poses; camstyle: as cameras see them
    cfg.genext.sampling = CfgNode()
    cfg.genext.sampling.poses = "standard"  # standard | standard 1 5 | dataset | random 4; CamStyle: camera2
    cfg.genext.sampling.seed = 0  # of noise and random poses
    cfg.genext.sampling.batch_size = 32  # images at a time
    cfg.genext.sampling.precision = "fp32"  # fp32 | bf16 | fp16 | auto (bf16 where the device has it)
    cfg.genext.sampling.compile = False  # IPG: torch.compile the denoiser
    cfg.genext.sampling.steps = 0  # of a diffusion; 0: of IPG 20, of codes 10 and of their prior 50
    cfg.genext.sampling.pipeline = "shipped:ipg"  # IPG: folder or hub name, or authors' files
    cfg.genext.sampling.tiny_vae = ""  # IPG: folder or hub name of an AutoencoderTiny, in place of its own
    cfg.genext.sampling.image_size = []  # IPG: height and width in pixels; empty: as it was trained
    cfg.genext.sampling.scheduler = "ddim"  # IPG: ddim | unipc | dpmsolver++
    cfg.genext.sampling.guidance = 3.5  # IPG: from nobody to the person; up to 1: none, in half the time
    cfg.genext.sampling.interval = [0.0, 1.0]  # IPG: share of the steps in which there is guidance
