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

_IPG_PARTS = ("reference_unet", "denoising_unet", "pose_guider", "identity_projector")


def add_genext_config(cfg: CfgNode) -> None:
    """Add the plugin's own node to a tree, also to one that a user built; every switch is off."""
    cfg.genext = CfgNode()
    _add_evaluation(cfg)
    _add_steps(cfg)
    _add_augmentation(cfg)
    _add_tools(cfg)
    _add_identity_generator(cfg)
    _add_identity_inverter(cfg)
    _add_pose_generator(cfg)
    _add_sampling(cfg)
    _add_adversarial_generators(cfg)
    _add_generator_training(cfg)


def _add_evaluation(cfg: CfgNode) -> None:
    cfg.genext.evaluation = CfgNode()
    cfg.genext.evaluation.enabled = False  # use this package's evaluator even when no step is on
    cfg.genext.evaluation.memory_limit = 0  # bytes for intermediate results; 0: the library's own default
    cfg.genext.evaluation.protocol = ""  # market1501 | cuhk03 | streid | camstyle | genid; empty: the host's
    cfg.genext.evaluation.index = "exact"  # search for neighbours: exact, or through faiss flat | ivf | hnsw
    cfg.genext.evaluation.chain = ""  # steps as text, instead of those of the switches below
    cfg.genext.evaluation.device = "auto"  # where engines compare features; auto: with the network


def _add_steps(cfg: CfgNode) -> None:
    """A node for each training-free step, made of the step itself: its switch and its fields."""
    from torchreid_genext.retrieval.steps import STEPS  # torch takes seconds to import

    for name, node in STEP_NODES.items():
        cfg.genext[node] = CfgNode({"enabled": False})
        for field in fields(STEPS[name]):
            cfg.genext[node][field.name] = field.default
    cfg.genext.ipg.eta = 2.0  # as Pose2ID's demo has it
    cfg.genext.ipg.root = ""  # a store, or of {query_gen,bounding_box_test_gen}/pose1 ...
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
    cfg.genext.benchmark.models = []  # '[label=]name[@weights][@HEIGHTxWIDTH]' each; empty: that of model
    cfg.genext.benchmark.dataset = ""  # empty: the first of data.targets
    cfg.genext.benchmark.chains = ["base", "l2", "nfc"]  # each a chain, or a grid such as 'nfc(k1=1|2|4)'
    cfg.genext.benchmark.bootstrap = 1000  # resamplings of identities behind each interval; 0: no intervals
    cfg.genext.benchmark.seed = 0  # of those resamplings
    cfg.genext.benchmark.cache_dir = ""  # features by content; empty: <data.save_dir>/features
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
    cfg.genext.identity.widths = [48, 96, 192, 384]  # channels of each level of the denoiser; official
    cfg.genext.identity.depth = 2  # residual blocks a level
    cfg.genext.identity.code_width = 32  # of an identity code
    cfg.genext.identity.height = 64  # of images, in pixels
    cfg.genext.identity.width = 32
    cfg.genext.identity.prediction = "v"  # v | eps (official) | signal
    cfg.genext.identity.loss = "l2"  # l2 | l1 (official)
    cfg.genext.identity.pull = 0.000244  # weight of the mean squared code; official 0.5 / (64 * 32)
    cfg.genext.identity.table = "appearance"  # what codes start from: looks on average | random (official)
    cfg.genext.identity.labels = "train"  # train: counted from 0 | raw: numbers in file names (official)
    cfg.genext.identity.rows = 0  # of the table; 0: as many as labels need (official: 1502)
    cfg.genext.identity.shuffle = True  # False: images in the order of their files (official)
    cfg.genext.identity.steps = 10  # of the sampler
    _add_schedule(cfg.genext.identity, steps=20000, batch_size=64, lr=1e-3)

    cfg.genext.prior = CfgNode()
    cfg.genext.prior.width = 512  # of a hidden layer
    cfg.genext.prior.layers = 3  # hidden ones
    cfg.genext.prior.rows = "trained"  # of the table that it learns: trained | all (official)
    cfg.genext.prior.steps = 50  # of the sampler
    _add_schedule(cfg.genext.prior, steps=5000, batch_size=256, lr=1e-4)


def _add_identity_inverter(cfg: CfgNode) -> None:
    cfg.genext.inverter = CfgNode()
    cfg.genext.inverter.widths = [48, 96, 192, 384]  # channels of each level; official
    cfg.genext.inverter.hidden = [512, 128]  # dense layers before the code; official
    cfg.genext.inverter.data = "mixed"  # synthetic (official) | real | mixed
    cfg.genext.inverter.pool = 4096  # synthetic pairs, made once; 0: new ones a step (official)
    cfg.genext.inverter.denoised = 0.25  # share of the real images that are denoised under their codes
    cfg.genext.inverter.denoising = 1.0  # weight of that
    cfg.genext.inverter.classification = 0.3  # weight of cross-entropy on real images; 0: none
    cfg.genext.inverter.ranking = 0.0  # weight of the triplet loss on them; 0: none
    cfg.genext.inverter.soft_margin = 5.0  # sharpness of its margin; 0: torchreid's, loss.triplet.margin wide
    cfg.genext.inverter.classifier_lr = 3.0  # learning rate of the classifier, in those of the rest
    cfg.genext.inverter.padding = 2  # pixels by which images are moved
    cfg.genext.inverter.erase = 0.3  # probability of a hidden rectangle
    _add_schedule(cfg.genext.inverter, steps=20000, batch_size=64, lr=5e-4)

    # How genid_refined sharpens codes: by descending the error of denoising the image.
    cfg.genext.inverter.refine = CfgNode()
    cfg.genext.inverter.refine.generator = ""  # file of the trained generator
    cfg.genext.inverter.refine.steps = 5  # of Adam
    cfg.genext.inverter.refine.step_size = 0.01  # of Adam
    cfg.genext.inverter.refine.times = [0.3, 0.5]  # of the diffusion, in 0 .. 1
    cfg.genext.inverter.refine.draws = 1  # noises for each time
    cfg.genext.inverter.refine.seed = 0  # of the noises
    cfg.genext.inverter.refine.pull = 0.0  # weight of the squared distance to the first code

    # Encoder and denoiser together, without a table: the code comes from another image of the person.
    cfg.genext.cross = CfgNode()
    cfg.genext.cross.denoised = 0.4  # share of the batch that is denoised
    cfg.genext.cross.denoising = 1.0  # weight of that
    cfg.genext.cross.classification = 1.0  # weight of cross-entropy; 0: none
    cfg.genext.cross.ranking = 1.0  # weight of the triplet loss; 0: none
    cfg.genext.cross.other_camera = True  # prefer a partner under another camera
    _add_schedule(cfg.genext.cross, steps=30000, batch_size=32, lr=8e-4)


def _add_pose_generator(cfg: CfgNode) -> None:
    # IPG: a person of one image in the pose of another. These sizes are small; images are patches of pixels.
    cfg.genext.ipg.generator = CfgNode()
    cfg.genext.ipg.generator.init = ""  # folder of a pipeline to start from, or of the authors' files
    cfg.genext.ipg.generator.base_model = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # with those files
    cfg.genext.ipg.generator.vae = "stabilityai/sd-vae-ft-mse"  # with those files
    cfg.genext.ipg.generator.height = 128  # of images, in pixels
    cfg.genext.ipg.generator.width = 64
    cfg.genext.ipg.generator.patch = 2  # pixels a side that become channels, in place of a VAE
    cfg.genext.ipg.generator.latent_channels = 0  # principal components of a patch; 0: its pixels
    cfg.genext.ipg.generator.guider_width = 16  # channels of the pose guider's first level
    cfg.genext.ipg.generator.widths = [32, 64, 96, 128]  # channels of each level of both U-Nets
    cfg.genext.ipg.generator.layers = 1  # residual blocks a level
    cfg.genext.ipg.generator.attention = 2  # levels with attention, the deepest ones
    cfg.genext.ipg.generator.heads = 4  # of each attention
    cfg.genext.ipg.generator.tokens = 4  # of an identity
    cfg.genext.ipg.generator.token_width = 64  # of each token
    cfg.genext.ipg.generator.encoder = "osnet_x0_25"  # any torchreid model, whose features tell people apart
    cfg.genext.ipg.generator.encoder_weights = "pretrained/synthreid/osnet_x0_25.safetensors"
    cfg.genext.ipg.generator.encoder_size = [128, 64]  # height and width of its images
    cfg.genext.ipg.generator.poses = "poses.csv"  # files of joints, in the data set's folder, spaces between
    cfg.genext.ipg.generator.partners = "any"  # any | same_camera, of references; another image of a person
    cfg.genext.ipg.generator.flip = 0.0  # share of references that are mirrored
    cfg.genext.ipg.generator.parts = list(_IPG_PARTS)  # which are trained
    cfg.genext.ipg.generator.lora_rank = 0  # of what trained U-Nets learn at their attention; 0: all weights
    cfg.genext.ipg.generator.gradient_checkpointing = False  # compute features twice instead of keeping them
    cfg.genext.ipg.generator.cache_latents = False  # encode images once, latents and identity; needs flip 0
    cfg.genext.ipg.generator.examples = "query"  # split of the people in sample pictures
    cfg.genext.ipg.generator.unconditional = 0.1  # share of images that are denoised for nobody
    cfg.genext.ipg.generator.noise_offset = 0.05  # of brightness, as a standard deviation
    cfg.genext.ipg.generator.snr_gamma = 5.0  # times with less noise than 1 / this count less; 0: none
    cfg.genext.ipg.generator.noise_bias = 0.0  # power of t with which time t is likelier; 0: all alike
    cfg.genext.ipg.generator.person_weight = 1.0  # of errors where the skeleton is, to those elsewhere
    cfg.genext.ipg.generator.channel_power = 0.0  # of each latent channel's share in images, as its weight
    _add_schedule(cfg.genext.ipg.generator, steps=20000, batch_size=32, lr=5e-4)


def _add_sampling(cfg: CfgNode) -> None:
    # How IPG draws; the defaults are the authors', but for the pipeline.
    cfg.genext.ipg.sampling = CfgNode()
    cfg.genext.ipg.sampling.pipeline = "pretrained/synthreid/ipg"  # folder or hub name of a pipeline, or folder of the authors' files
    cfg.genext.ipg.sampling.tiny_vae = ""  # folder or hub name of an AutoencoderTiny, in place of its own
    cfg.genext.ipg.sampling.height = 0  # of images, in pixels; 0: as the pipeline was trained
    cfg.genext.ipg.sampling.width = 0  # 0: half of the height
    cfg.genext.ipg.sampling.scheduler = "ddim"  # ddim | unipc | dpmsolver++
    cfg.genext.ipg.sampling.steps = 20  # of the scheduler
    cfg.genext.ipg.sampling.guidance = 3.5  # from nobody to the person; up to 1: none, in half the time
    cfg.genext.ipg.sampling.interval = [0.0, 1.0]  # share of the steps in which there is guidance
    cfg.genext.ipg.sampling.precision = "fp32"  # fp32 | bf16 | fp16 | auto (bf16 where the device has it)
    cfg.genext.ipg.sampling.compile = False  # torch.compile the denoiser
    cfg.genext.ipg.sampling.batch_size = 32  # images at a time
    cfg.genext.ipg.sampling.poses = "standard"  # standard | standard 1 5 | dataset | random 4
    cfg.genext.ipg.sampling.seed = 0  # of noise and random poses


def _add_adversarial_generators(cfg: CfgNode) -> None:
    cfg.genext.generator = "ipg"  # ipg | pg2 | deformable draw people in poses; camstyle: as cameras see them

    # PG2 (NIPS 2017): a coarse image from a reference and a pose, then what it lacks.
    cfg.genext.pg2 = CfgNode()
    cfg.genext.pg2.weights = ""  # file of a training; that draws
    cfg.genext.pg2.height = 128  # of images, in pixels
    cfg.genext.pg2.width = 64
    cfg.genext.pg2.channels = 128  # of the first level of both stages
    cfg.genext.pg2.code = 64  # numbers to which stage I reduces an image and a pose
    cfg.genext.pg2.radius = 4  # of the discs that show joints, in pixels
    cfg.genext.pg2.discriminator = "official"  # official | pairwise (as in the paper)
    cfg.genext.pg2.discriminator_channels = 64  # of its first layer
    cfg.genext.pg2.reconstruction = 10.0  # weight of the difference to the truth in stage II
    cfg.genext.pg2.flip = 0.5  # share of pairs that are mirrored
    _add_pose_pairs(cfg.genext.pg2)
    for stage, steps in (("stage1", 22000), ("stage2", 38000)):
        cfg.genext.pg2[stage] = CfgNode()
        _add_schedule(cfg.genext.pg2[stage], steps=steps, batch_size=16, lr=2e-5)

    # Deformable GAN (CVPR 2018): skip connections take parts of the body to their new places.
    cfg.genext.deformable = CfgNode()
    cfg.genext.deformable.weights = ""  # file of a training; that draws
    cfg.genext.deformable.height = 128  # of images, in pixels
    cfg.genext.deformable.width = 64
    cfg.genext.deformable.encoder = [64, 128, 256, 512, 512, 512]  # channels of each level
    cfg.genext.deformable.decoder = [512, 512, 512, 256, 128]  # the deepest first
    cfg.genext.deformable.skips = "deformable"  # deformable | full (one transform) | none
    cfg.genext.deformable.aggregation = "max"  # of parts that meet: max (official) | avg | masked_max
    cfg.genext.deformable.estimator = "dlt"  # of transforms: dlt (official) | least_squares
    cfg.genext.deformable.dropout = 0.5  # in training
    cfg.genext.deformable.discriminator_channels = [64, 128, 256, 512]  # of each layer
    cfg.genext.deformable.reconstruction = "nearest_neighbour"  # nearest_neighbour | l1
    cfg.genext.deformable.vgg19 = ""  # torchvision's weights, for its features; empty: oriented gradients
    cfg.genext.deformable.window = 3  # pixels a side in which the nearest neighbour is looked for
    cfg.genext.deformable.weight = 0.0  # of the reconstruction; 0: what suits the features
    cfg.genext.deformable.flip = 0.0  # share of pairs that are mirrored
    _add_pose_pairs(cfg.genext.deformable)
    _add_schedule(cfg.genext.deformable, steps=90000, batch_size=4, lr=2e-4)

    # CamStyle (CVPR 2018): an image as another camera would have taken it. One model for all cameras.
    cfg.genext.camstyle = CfgNode()
    cfg.genext.camstyle.weights = ""  # file of a training, or folder of those of pairs; that draws
    cfg.genext.camstyle.height = 128  # of images, in pixels
    cfg.genext.camstyle.width = 64
    cfg.genext.camstyle.channels = 64  # of the generator's first level
    cfg.genext.camstyle.blocks = 9  # residual
    cfg.genext.camstyle.discriminator_channels = 64  # of its first layer
    cfg.genext.camstyle.layers = 3  # of the discriminator
    cfg.genext.camstyle.norm = "spectral"  # of the discriminator: spectral | instance
    cfg.genext.camstyle.pool = 50  # generated images that are remembered; at least a batch
    cfg.genext.camstyle.cycle = 10.0  # weight of the way there and back
    cfg.genext.camstyle.identity = 0.5  # weight of staying as it is under its own camera, times cycle
    cfg.genext.camstyle.flip = 0.5  # share of mirror images
    cfg.genext.camstyle.pair = []  # two cameras: a CycleGAN of these alone, as the authors have; empty: all
    cfg.genext.camstyle.images = 2  # of each camera in a batch
    _add_schedule(cfg.genext.camstyle, steps=20000, batch_size=0, lr=2e-4)
    del cfg.genext.camstyle.train["batch_size"]  # cameras times images


def _add_pose_pairs(node: CfgNode) -> None:
    node.poses = "poses.csv"  # files of joints, in the data set's folder, spaces between
    node.partners = "any"  # any | same_camera; another image of a person


def _add_generator_training(cfg: CfgNode) -> None:
    # How all of them are trained.
    cfg.genext.training = CfgNode()
    cfg.genext.training.seed = 0  # of weights, order and noise
    cfg.genext.training.mixed_precision = "auto"  # no | bf16 | fp16 (accelerators) | auto (bf16 or no)
    cfg.genext.training.channels_last = True  # memory order of images; faster on most CPUs and GPUs
    cfg.genext.training.accumulation = 1  # batches a step
    cfg.genext.training.log_every = 50  # steps
    cfg.genext.training.picture_every = 1000  # steps; 0: none
    cfg.genext.training.save_every = 1000  # steps
    cfg.genext.training.keep = 2  # newest checkpoints
    cfg.genext.training.resume = False  # go on from the newest checkpoint


def _add_schedule(node: CfgNode, *, steps: int, batch_size: int, lr: float) -> None:
    node.train = CfgNode()
    node.train.steps = steps  # updates
    node.train.batch_size = batch_size  # of all processes together
    node.train.lr = lr  # learning rate
    node.train.weight_decay = 0.0  # decoupled (AdamW)
    node.train.warmup = 0  # steps
    node.train.schedule = "constant"  # constant | cosine | linear (at the end)
    node.train.clip_norm = 0.0  # of gradients; 0: none
    node.train.ema_decay = 0.999  # of the average of weights; 0: none (official)
