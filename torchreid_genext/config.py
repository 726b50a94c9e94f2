"""torchreid's default configuration plus this plugin's node ``genext``, and the host arguments made of it.

torchreid keeps its default tree in its scripts, not in its package, so the tree stands here: the same names
and values, which lets every config file written for torchreid work as it is. yacs refuses unknown keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from torchreid_genext import checkpoints


def get_default_config() -> CfgNode:
    """torchreid's whole default tree plus ``cfg.genext``; ``use_gpu`` is True where torch sees a GPU."""
    import torch

    cfg = CfgNode()
    cfg.use_gpu = torch.cuda.is_available()
    _add_model_and_data(cfg)
    _add_training(cfg)
    _add_test(cfg)
    add_genext_config(cfg)
    return cfg


def load_config(config_file: str = "", opts: Sequence[str] = (), **data: Any) -> CfgNode:
    """The defaults, overridden by a YAML file, then by `data`, then by ``key value`` pairs.

    Args:
        config_file: YAML file of keys that differ from the defaults.
        opts: ``key value key value ...``
        data: keys of ``cfg.data`` that torchreid's scripts take as options of their own (``sources``,
            ``targets``, ``transforms``, ``root``); empty ones leave the key as it is.

    Raises:
        ValueError: if the file is missing or not YAML, or a key is unknown or has a value of another type.
    """
    cfg = get_default_config()
    if config_file:
        merge_file(cfg, config_file)
    cfg.data.update({name: value for name, value in data.items() if value})
    merge_options(cfg, opts)
    return cfg


def merge_file(cfg: CfgNode, config_file: str) -> None:
    """Override `cfg` with a YAML file.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        tree = yaml.safe_load(Path(config_file).read_text(encoding="utf-8")) or {}
        if not isinstance(tree, dict):
            raise ValueError(f"{tree!r} is not a key with a value")
        cfg.merge_from_other_cfg(CfgNode(tree))
    except (OSError, KeyError, ValueError, yaml.YAMLError) as error:
        reason = _reason(error)
        raise ValueError(f"expected a YAML file of known keys, got {config_file}: {reason}") from error


def merge_options(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Override `cfg` with ``key value key value ...``.

    Raises:
        ValueError: naming the offending key or value.
    """
    if len(opts) % 2:
        raise ValueError(f"expected options in pairs 'key value', got {' '.join(opts)!r}")
    try:
        cfg.merge_from_list(list(opts))
    except (KeyError, ValueError, AssertionError) as error:
        given = " ".join(opts)
        raise ValueError(f"expected known keys and values, got {given!r}: {_reason(error)}") from error


def check_config(cfg: CfgNode) -> None:
    """Refuse combinations that would fail or mislead only after the data has been loaded.

    Raises:
        ValueError: naming the rule and the value.
    """
    if cfg.loss.name == "triplet" and cfg.loss.triplet.weight_x == 0 and cfg.train.fixbase_epoch > 0:
        # No gradient reaches the classifier, so there would be nothing to learn in those epochs.
        raise ValueError(
            f"expected train.fixbase_epoch 0 with loss.triplet.weight_x 0, got {cfg.train.fixbase_epoch}"
        )
    if cfg.test.visrank and not cfg.test.evaluate:
        raise ValueError("expected test.evaluate True with test.visrank True, got False")


def _reason(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def write_config(cfg: CfgNode, folder: str | Path) -> Path:
    """Write the merged configuration as ``folder/config.yaml``, which ``--config-file`` reads again."""
    return checkpoints.write_text(Path(folder) / "config.yaml", cfg.dump())


def _add_model_and_data(cfg: CfgNode) -> None:
    cfg.model = CfgNode()
    cfg.model.name = "resnet50"
    cfg.model.pretrained = True  # start from ImageNet weights, fetched where the host knows some
    cfg.model.load_weights = ""  # file of weights to start from; the classifier may be of other identities
    cfg.model.resume = ""  # checkpoint of an interrupted training

    cfg.data = CfgNode()
    cfg.data.type = "image"  # image | video
    cfg.data.root = "reid-data"  # folder that holds all data sets
    cfg.data.sources = ["market1501"]  # data sets to train on
    cfg.data.targets = ["market1501"]  # data sets to test on
    cfg.data.workers = 4  # loading processes
    cfg.data.split_id = 0  # which of several splits, counted from 0
    cfg.data.height = 256  # of the network's input, pixels
    cfg.data.width = 128
    cfg.data.combineall = False  # train on train, query and gallery together
    cfg.data.transforms = ["random_flip"]  # training augmentation: random_flip|crop|patch|erase, color_jitter
    cfg.data.k_tfm = 1  # independently augmented copies of each image
    cfg.data.norm_mean = [0.485, 0.456, 0.406]  # per channel, of images in [0, 1]; ImageNet's
    cfg.data.norm_std = [0.229, 0.224, 0.225]
    cfg.data.save_dir = "log"  # everything a run writes
    cfg.data.load_train_targets = False  # also load the targets' training images (domain adaptation)

    cfg.market1501 = CfgNode()
    cfg.market1501.use_500k_distractors = False  # add the 500k distractors to the gallery
    cfg.cuhk03 = CfgNode()
    cfg.cuhk03.labeled_images = False  # boxes drawn by hand instead of detected ones
    cfg.cuhk03.classic_split = False  # the split of 2014 instead of 767/700
    cfg.cuhk03.use_metric_cuhk03 = False  # single-gallery-shot evaluation

    cfg.sampler = CfgNode()
    cfg.sampler.train_sampler = "RandomSampler"  # order of source images
    cfg.sampler.train_sampler_t = "RandomSampler"  # order of target images
    cfg.sampler.num_instances = 4  # images of an identity in a batch (RandomIdentitySampler)
    cfg.sampler.num_cams = 1  # cameras in a batch (RandomDomainSampler)
    cfg.sampler.num_datasets = 1  # data sets in a batch (RandomDatasetSampler)

    cfg.video = CfgNode()
    cfg.video.seq_len = 15  # images taken from a tracklet
    cfg.video.sample_method = "evenly"  # evenly | random | all
    cfg.video.pooling_method = "avg"  # avg | max, over the images of a tracklet


def _add_training(cfg: CfgNode) -> None:
    cfg.train = CfgNode()
    cfg.train.optim = "adam"  # adam | amsgrad | sgd | rmsprop | radam
    cfg.train.lr = 0.0003
    cfg.train.weight_decay = 5e-4
    cfg.train.max_epoch = 60
    cfg.train.start_epoch = 0
    cfg.train.batch_size = 32
    cfg.train.fixbase_epoch = 0  # first epochs, in which only open_layers learn
    cfg.train.open_layers = ["classifier"]
    cfg.train.staged_lr = False  # smaller rate for all but new_layers
    cfg.train.new_layers = ["classifier"]
    cfg.train.base_lr_mult = 0.1  # factor of that smaller rate
    cfg.train.lr_scheduler = "single_step"  # single_step | multi_step | cosine
    cfg.train.stepsize = [20]  # epochs between (single_step) or at (multi_step) decays
    cfg.train.gamma = 0.1  # factor of a decay
    cfg.train.print_freq = 20  # batches between two lines of the log
    cfg.train.seed = 1

    cfg.sgd = CfgNode()
    cfg.sgd.momentum = 0.9  # also of rmsprop
    cfg.sgd.dampening = 0.0
    cfg.sgd.nesterov = False
    cfg.rmsprop = CfgNode()
    cfg.rmsprop.alpha = 0.99  # smoothing
    cfg.adam = CfgNode()
    cfg.adam.beta1 = 0.9  # decay of the first moment
    cfg.adam.beta2 = 0.999  # decay of the second moment

    cfg.loss = CfgNode()
    cfg.loss.name = "softmax"  # softmax | triplet
    cfg.loss.softmax = CfgNode()
    cfg.loss.softmax.label_smooth = True
    cfg.loss.triplet = CfgNode()
    cfg.loss.triplet.margin = 0.3
    cfg.loss.triplet.weight_t = 1.0  # weight of the triplet term
    cfg.loss.triplet.weight_x = 0.0  # weight of the cross-entropy term


def _add_test(cfg: CfgNode) -> None:
    cfg.test = CfgNode()
    cfg.test.batch_size = 100
    cfg.test.dist_metric = "euclidean"  # euclidean (squared) | cosine
    cfg.test.normalize_feature = False  # L2-normalise features before the distance
    cfg.test.ranks = [1, 5, 10, 20]  # ranks of the CMC that are shown
    cfg.test.evaluate = False  # test only, no training
    cfg.test.eval_freq = -1  # epochs between tests; -1: only after the last
    cfg.test.start_eval = 0  # first epoch that may be followed by a test
    cfg.test.rerank = False  # k-reciprocal re-ranking
    cfg.test.visrank = False  # write pictures of ranked galleries (with test.evaluate)
    cfg.test.visrank_topk = 10


def add_genext_config(cfg: CfgNode) -> None:
    """Add the plugin's own node to a tree, also to one that a user built; every switch is off."""
    cfg.genext = CfgNode()
    _add_evaluation(cfg)
    _add_feature_steps(cfg)
    _add_distance_steps(cfg)
    _add_tools(cfg)
    _add_identity_generator(cfg)
    _add_identity_inverter(cfg)
    _add_generator_training(cfg)


def _add_evaluation(cfg: CfgNode) -> None:
    cfg.genext.evaluation = CfgNode()
    cfg.genext.evaluation.enabled = False  # use this package's evaluator even when no step is on
    cfg.genext.evaluation.memory_limit = 0  # bytes for intermediate results; 0: the library's own default
    cfg.genext.evaluation.protocol = ""  # market1501 | cuhk03 | streid | genid (official); empty: the host's
    cfg.genext.evaluation.index = "exact"  # search for neighbours: exact, or through faiss flat | ivf | hnsw
    cfg.genext.evaluation.chain = ""  # steps as text, instead of those of the switches below


def _add_feature_steps(cfg: CfgNode) -> None:
    # Generated images of the same person (Pose2ID, CVPR 2025): add their features, as its demo does.
    cfg.genext.ipg = CfgNode()
    cfg.genext.ipg.enabled = False  # add them
    cfg.genext.ipg.root = ""  # a store, or of {query_gen,bounding_box_test_gen}/pose1 ...
    cfg.genext.ipg.eta = 2.0  # weight of the generated images
    cfg.genext.ipg.reduce = "mean"  # mean | sum, over the poses
    cfg.genext.ipg.side = "both"  # query | gallery | both
    cfg.genext.ipg.normalize_before = False  # L2, so that long features have no louder voice
    cfg.genext.ipg.normalize_after = True  # L2, so that images with and without generated ones compare

    # Camera normalisation: centre and scale the features of each camera.
    cfg.genext.camera_norm = CfgNode()
    cfg.genext.camera_norm.enabled = False  # centre and scale the features of each camera
    cfg.genext.camera_norm.statistics = "each"  # of each set | gallery, for both
    cfg.genext.camera_norm.epsilon = 0.1  # added to the standard deviation of unit features

    # Tracklets: pictures that one camera took within seconds share one feature.
    cfg.genext.tracklets = CfgNode()
    cfg.genext.tracklets.enabled = False  # let one camera's pictures of one moment share a feature
    cfg.genext.tracklets.gap = 300  # frames
    cfg.genext.tracklets.threshold = 0.5  # least cosine
    cfg.genext.tracklets.side = "both"  # query | gallery | both

    # Neighbour feature centralization (Pose2ID, CVPR 2025): add to a feature those of its mutual neighbours.
    cfg.genext.nfc = CfgNode()
    cfg.genext.nfc.enabled = False
    cfg.genext.nfc.k1 = 2  # neighbours of each feature that are considered
    cfg.genext.nfc.k2 = 2  # how highly a neighbour must rank the feature in return
    cfg.genext.nfc.side = "both"  # query | gallery | both (each alone) | joint (sets mixed: transductive)
    cfg.genext.nfc.neighbours = "any"  # any | cross_camera | spatiotemporal | cross_camera+spatiotemporal
    cfg.genext.nfc.form = "ratio"  # of time among spatiotemporal neighbours, as spatiotemporal.form
    cfg.genext.nfc.weight = 0.07  # of time among them
    cfg.genext.nfc.normalize_before = True  # L2, so that neighbours are those by angle
    cfg.genext.nfc.normalize_after = True  # L2, so that sums of many and of few compare

    # Expansion by nearest neighbours in the gallery, weighted by cosine ** alpha.
    cfg.genext.database_augmentation = CfgNode()
    cfg.genext.database_augmentation.enabled = False  # add to gallery features their nearest others
    cfg.genext.database_augmentation.k = 5  # other gallery features
    cfg.genext.database_augmentation.alpha = 3.0  # how fast the weight falls; 0: all alike
    cfg.genext.query_expansion = CfgNode()
    cfg.genext.query_expansion.enabled = False  # add to queries their nearest gallery features
    cfg.genext.query_expansion.k = 5  # gallery features
    cfg.genext.query_expansion.alpha = 3.0  # 0: plain average query expansion


def _add_distance_steps(cfg: CfgNode) -> None:
    # ST-ReID (AAAI 2019): the time between two images, learnt from the training split, joins their distance.
    cfg.genext.spatiotemporal = CfgNode()
    cfg.genext.spatiotemporal.enabled = False  # let time join the distance (ST-ReID)
    cfg.genext.spatiotemporal.form = "ratio"  # ratio | loglikelihood | official
    cfg.genext.spatiotemporal.weight = 0.07  # of time, in the first two
    cfg.genext.spatiotemporal.floor = 1e-4  # likelihood of what no training identity has shown, there
    cfg.genext.spatiotemporal.alpha = 5.0  # slope of both factors in the official form
    cfg.genext.spatiotemporal.interval = 100  # frames per bin
    cfg.genext.spatiotemporal.bins = 5000  # how many; longer lags count in the last
    cfg.genext.spatiotemporal.sigma = None  # of the smoothing, in bins; None: 50 if official, else 5

    # k-reciprocal re-ranking, which the host's test.rerank switches on.
    cfg.genext.rerank = CfgNode()
    cfg.genext.rerank.k1 = 20  # neighbours that may be reciprocal
    cfg.genext.rerank.k2 = 6  # nearest images whose descriptions are averaged
    cfg.genext.rerank.lambda_value = 0.3  # share of the original distance


def _add_tools(cfg: CfgNode) -> None:
    # How the benchmark tool extracts features; float32 is exact.
    cfg.genext.inference = CfgNode()
    cfg.genext.inference.precision = "fp32"  # fp32 | bf16
    cfg.genext.inference.channels_last = False  # memory order of images; faster on most CPUs and GPUs
    cfg.genext.inference.flip = False  # mean over an image and its mirror image, at twice the cost
    cfg.genext.inference.compile = False  # torch.compile the backbone

    cfg.genext.benchmark = CfgNode()
    cfg.genext.benchmark.models = []  # 'name', 'name@weights' or 'label=name@weights'; empty: model.name
    cfg.genext.benchmark.dataset = ""  # empty: the first of data.targets
    cfg.genext.benchmark.chains = ["base", "l2", "nfc"]  # each a chain, or a grid such as 'nfc(k1=1|2|4)'
    cfg.genext.benchmark.bootstrap = 1000  # resamplings of the queries behind each interval; 0: no intervals
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
    cfg.genext.identity.labels = "train"  # train: people counted from 0 | raw: numbers in file names (official)
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
    cfg.genext.inverter.pool = 4096  # synthetic pairs, made once and drawn from; 0: new ones a step (official)
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
    cfg.genext.inverter.refine.steps = 20  # of Adam
    cfg.genext.inverter.refine.step_size = 0.05  # of Adam
    cfg.genext.inverter.refine.times = [0.5, 0.7, 0.9]  # of the diffusion, in 0 .. 1
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


def _add_generator_training(cfg: CfgNode) -> None:
    # How all of them are trained.
    cfg.genext.training = CfgNode()
    cfg.genext.training.seed = 0  # of weights, order and noise
    cfg.genext.training.mixed_precision = "bf16"  # no | bf16 | fp16 (accelerators)
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
    node.train.schedule = "constant"  # constant | cosine
    node.train.clip_norm = 0.0  # of gradients; 0: none
    node.train.ema_decay = 0.999  # of the average of weights; 0: none (official)


def image_data_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``ImageDataManager``."""
    return _data_kwargs(cfg) | {
        "k_tfm": cfg.data.k_tfm,
        "load_train_targets": cfg.data.load_train_targets,
        "train_sampler_t": cfg.sampler.train_sampler_t,
        "cuhk03_labeled": cfg.cuhk03.labeled_images,
        "cuhk03_classic_split": cfg.cuhk03.classic_split,
        "market1501_500k": cfg.market1501.use_500k_distractors,
    }


def video_data_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``VideoDataManager``."""
    return _data_kwargs(cfg) | {"seq_len": cfg.video.seq_len, "sample_method": cfg.video.sample_method}


def _data_kwargs(cfg: CfgNode) -> dict[str, Any]:
    names = ("root", "sources", "targets", "height", "width", "transforms", "norm_mean", "norm_std")
    names += ("split_id", "combineall", "workers")
    samplers = ("train_sampler", "num_instances", "num_cams", "num_datasets")
    return {
        **{name: cfg.data[name] for name in names},
        **{name: cfg.sampler[name] for name in samplers},
        "batch_size_train": cfg.train.batch_size,
        "batch_size_test": cfg.test.batch_size,
        "use_gpu": cfg.use_gpu,
    }


def configure_model(model: Any, cfg: CfgNode) -> Any:
    """Tell a model of ours what the configuration says; torchreid's are left as they are."""
    if hasattr(model, "configure"):
        model.configure(cfg.data.norm_mean, cfg.data.norm_std, network=_network(cfg), **cfg.genext.inverter.refine)
    return model


def _network(cfg: CfgNode) -> dict[str, Any]:
    """Size of an inverter that no weights file tells."""
    identity, inverter = cfg.genext.identity, cfg.genext.inverter
    return {
        "widths": list(inverter.widths),
        "depth": identity.depth,
        "code_width": identity.code_width,
        "hidden": list(inverter.hidden),
        "image_size": [identity.height, identity.width],
    }


def optimizer_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``build_optimizer``."""
    names = ("optim", "lr", "weight_decay", "staged_lr", "new_layers", "base_lr_mult")
    return {name: cfg.train[name] for name in names} | {
        "momentum": cfg.sgd.momentum,
        "sgd_dampening": cfg.sgd.dampening,
        "sgd_nesterov": cfg.sgd.nesterov,
        "rmsprop_alpha": cfg.rmsprop.alpha,
        "adam_beta1": cfg.adam.beta1,
        "adam_beta2": cfg.adam.beta2,
    }


def lr_scheduler_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of torchreid's ``build_lr_scheduler``."""
    return {name: cfg.train[name] for name in ("lr_scheduler", "stepsize", "gamma", "max_epoch")}


def engine_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of the chosen torchreid engine, besides data, model, optimizer and schedule."""
    options = {"use_gpu": cfg.use_gpu, "label_smooth": cfg.loss.softmax.label_smooth}
    if cfg.loss.name == "triplet":
        options |= {name: cfg.loss.triplet[name] for name in ("margin", "weight_t", "weight_x")}
    if cfg.data.type == "video":
        options["pooling_method"] = cfg.video.pooling_method
    return options


def run_kwargs(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of the engine's ``run``."""
    training = ("max_epoch", "start_epoch", "fixbase_epoch", "open_layers", "print_freq")
    testing = ("start_eval", "eval_freq", "dist_metric", "normalize_feature")
    testing += ("visrank", "visrank_topk", "ranks", "rerank")
    return {
        **{name: cfg.train[name] for name in training},
        **{name: cfg.test[name] for name in testing},
        "save_dir": cfg.data.save_dir,
        "test_only": cfg.test.evaluate,
        "use_metric_cuhk03": cfg.cuhk03.use_metric_cuhk03,
    }
