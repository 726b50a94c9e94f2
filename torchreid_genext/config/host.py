"""torchreid's own keys: they stand in its scripts, not in its package, so they stand here once more."""

from __future__ import annotations

from yacs.config import CfgNode

__all__ = ["add_host_config"]


def add_host_config(cfg: CfgNode) -> None:
    """Add torchreid's tree, with its names and values."""
    _add_model_and_data(cfg)
    _add_training(cfg)
    _add_test(cfg)


def _add_model_and_data(cfg: CfgNode) -> None:
    cfg.model = CfgNode()
    cfg.model.name = "resnet50"  # of torchreid's registry, or a backbone from elsewhere such as timm:NAME
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
    cfg.data.width = 128  # of the network's input, pixels
    cfg.data.combineall = False  # train on train, query and gallery together
    cfg.data.transforms = ["random_flip"]  # training augmentation: random_flip|crop|patch|erase, color_jitter
    cfg.data.k_tfm = 1  # independently augmented copies of each image
    cfg.data.norm_mean = [0.485, 0.456, 0.406]  # per channel, of images in [0, 1]; ImageNet's
    cfg.data.norm_std = [0.229, 0.224, 0.225]  # per channel, likewise
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
    cfg.train.lr = 0.0003  # learning rate
    cfg.train.weight_decay = 5e-4  # of all optimizers
    cfg.train.max_epoch = 60  # where training ends
    cfg.train.start_epoch = 0  # where it begins
    cfg.train.batch_size = 32  # images
    cfg.train.fixbase_epoch = 0  # first epochs, in which only open_layers learn
    cfg.train.open_layers = ["classifier"]  # layers that learn from the first epoch
    cfg.train.staged_lr = False  # smaller rate for all but new_layers
    cfg.train.new_layers = ["classifier"]  # layers with the full rate
    cfg.train.base_lr_mult = 0.1  # factor of that smaller rate
    cfg.train.lr_scheduler = "single_step"  # single_step | multi_step | cosine
    cfg.train.stepsize = [20]  # epochs between (single_step) or at (multi_step) decays
    cfg.train.gamma = 0.1  # factor of a decay
    cfg.train.print_freq = 20  # batches between two lines of the log
    cfg.train.seed = 1  # of weights and order

    cfg.sgd = CfgNode()
    cfg.sgd.momentum = 0.9  # also of rmsprop
    cfg.sgd.dampening = 0.0  # of momentum
    cfg.sgd.nesterov = False  # Nesterov's momentum
    cfg.rmsprop = CfgNode()
    cfg.rmsprop.alpha = 0.99  # smoothing
    cfg.adam = CfgNode()
    cfg.adam.beta1 = 0.9  # decay of the first moment
    cfg.adam.beta2 = 0.999  # decay of the second moment

    cfg.loss = CfgNode()
    cfg.loss.name = "softmax"  # softmax | triplet
    cfg.loss.softmax = CfgNode()
    cfg.loss.softmax.label_smooth = True  # a tenth of each label goes to all classes alike
    cfg.loss.triplet = CfgNode()
    cfg.loss.triplet.margin = 0.3  # between the distances of a triplet
    cfg.loss.triplet.weight_t = 1.0  # weight of the triplet term
    cfg.loss.triplet.weight_x = 0.0  # weight of the cross-entropy term


def _add_test(cfg: CfgNode) -> None:
    cfg.test = CfgNode()
    cfg.test.batch_size = 100  # images
    cfg.test.dist_metric = "euclidean"  # euclidean (squared) | cosine
    cfg.test.normalize_feature = False  # L2-normalise features before the distance
    cfg.test.ranks = [1, 5, 10, 20]  # ranks of the CMC that are shown
    cfg.test.evaluate = False  # test only, no training
    cfg.test.eval_freq = -1  # epochs between tests; -1: only after the last
    cfg.test.start_eval = 0  # first epoch that may be followed by a test
    cfg.test.rerank = False  # k-reciprocal re-ranking
    cfg.test.visrank = False  # write pictures of ranked galleries (with test.evaluate)
    cfg.test.visrank_topk = 10  # ranks that they show
