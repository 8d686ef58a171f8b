"""Whatever is imported here can be called by its class name alone, in YAML and on the command line."""

import lightning_nas.benchmarks.live
import lightning_nas.benchmarks.tabular
import lightning_nas.callbacks.ledger
import lightning_nas.callbacks.projector
import lightning_nas.callbacks.search
import lightning_nas.callbacks.validity
import lightning_nas.datamodules.cells
import lightning_nas.datamodules.cifar
import lightning_nas.datamodules.image_folder
import lightning_nas.datamodules.imagenet16
import lightning_nas.datamodules.jacobians
import lightning_nas.datamodules.npz_images
import lightning_nas.datamodules.torch_images
import lightning_nas.datamodules.vision
import lightning_nas.modules.arch2vec
import lightning_nas.modules.classifier
import lightning_nas.modules.contrastive
import lightning_nas.modules.sequence_autoencoder
import lightning_nas.predictors.guided_search
import lightning_nas.predictors.latent_search
import lightning_nas.predictors.mlp
import lightning_nas.predictors.tuned
import lightning_nas.search.candidate_bayesian
import lightning_nas.search.evolution
import lightning_nas.search.local
import lightning_nas.search.random
import lightning_nas.spaces.darts
import lightning_nas.spaces.functional
import lightning_nas.spaces.listed
import lightning_nas.spaces.nasbench201
import lightning_nas.spaces.natsbench_size
import lightning_nas.workers.dask
import lightning_nas.workers.slurm  # noqa: F401
