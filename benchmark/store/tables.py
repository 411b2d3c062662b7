"""The columns of the result tables, and what their values mean. Imports no torch."""

from __future__ import annotations

import pyarrow as pa

#: A reconstruction of at least this SSIM counts as a success of the attack (Scheliga et al., WACV 2022).
SUCCESS_SSIM = 0.6

#: What an attacker knows. Blind: the model and the cross-entropy, and nothing of the defense. Informed: also what the defense
#: discloses. Both: either would compute the same, so that it was done once and counts for both.
KNOWLEDGE = ("blind", "informed", "both")

_CELL = [
    ("dataset", pa.string()),  # its specification; of a path the last part
    ("model", pa.string()),
    ("defense", pa.string()),  # the specification, such as noise(std=0.01)
    ("defense_params", pa.string()),  # all parameters, as JSON
    ("seed", pa.int64()),
]

#: By what a model was trained.
_TUNED = [
    ("optimizer", pa.string()),  # adam or sgd
    ("learning_rate", pa.float64()),
    ("batch_size", pa.int32()),
]

#: One row per trial and epoch; epoch 0 is the untrained model.
TRIALS = pa.schema([
    *[column for column in _CELL if column[0] != "seed"],
    *_TUNED,
    ("epoch", pa.int32()),
    ("train_loss", pa.float64()),  # as in TRAINING
    ("validation_accuracy", pa.float64()),  # share in [0, 1], on training images that were kept apart
    ("epsilon", pa.float64()),  # as in TRAINING, of the trial alone
    ("delta", pa.float64()),
    ("seconds", pa.float64()),  # of this epoch, without the validation
])

#: One row per cell and epoch; epoch 0 is the untrained model.
TRAINING = pa.schema([
    *_CELL,
    *_TUNED,
    ("epoch", pa.int32()),
    ("train_loss", pa.float64()),  # mean over the epoch's batches, regularizer included; null for epoch 0
    ("test_accuracy", pa.float64()),  # share in [0, 1]
    ("test_images", pa.int64()),  # behind that share
    ("chance", pa.float64()),  # the share of the most frequent class among them
    ("epsilon", pa.float64()),  # spent so far; null without a guarantee
    ("delta", pa.float64()),  # that epsilon holds at; null without a guarantee
    ("seconds", pa.float64()),  # training of this epoch, without the test
    ("step_memory", pa.int64()),  # most bytes that tensors held in a training step, null where it was not measured
    ("sent_bytes", pa.int64()),  # of one shared gradient, see benchmark.measure.sent_bytes; null where it was not measured
    ("rounds", pa.int64()),  # in which clients shared so far: steps of the server; null in tables of earlier versions
])

#: How many images were behind an observed gradient.
_OBSERVED = [
    ("observed", pa.string()),  # a benchmark.specification.Mode
    ("batch_size", pa.int32()),  # the images themselves
]

#: One row per original image behind an observed gradient, attack with what it knew, and checkpoint.
RECONSTRUCTIONS = pa.schema([
    *_CELL,
    ("checkpoint_epoch", pa.int32()),  # epochs of training before the observation; 0 is the untrained model
    *_OBSERVED,
    ("attack", pa.string()),
    ("attack_params", pa.string()),  # all parameters, as JSON
    ("knowledge", pa.string()),  # one of KNOWLEDGE
    ("victim", pa.int32()),  # number of the observed gradient
    ("image", pa.int32()),  # number of the original behind that gradient
    ("mse", pa.float64()),  # of pixels in [0, 1]
    ("psnr", pa.float64()),  # in dB
    ("ssim", pa.float64()),  # in [-1, 1]
    ("label_correct", pa.bool_()),  # of an inferred label; null where the attacker was given it
    ("cost", pa.float64()),  # the attacker's own
    # How unlikely the reconstruction is by what an informed attacker observes: one number for all images of a victim, on one scale
    # for all attacks on it. Lower is likelier; may be infinite.
    ("score", pa.float64()),
    ("blind_score", pa.float64()),  # the same by what a blind attacker observes; null where the attacker was informed
    ("seconds", pa.float64()),  # of the attack, per victim
])

#: Their columns in memory. On disk that of LPIPS (lower is more alike) is there where it was measured.
PERCEIVED = RECONSTRUCTIONS.append(pa.field("lpips", pa.float64()))

#: One row per observed gradient, checkpoint, and what the attacker knew, who looked for the first image behind that gradient among
#: candidates. Candidates that were scored alike share a rank: the true one's is any of better + 1 to better + tied + 1.
IDENTIFICATIONS = pa.schema([
    *_CELL,
    ("checkpoint_epoch", pa.int32()),
    *_OBSERVED,
    ("knowledge", pa.string()),  # one of KNOWLEDGE
    ("method", pa.string()),  # by what candidates were scored, such as cosine or likelihood
    ("exact", pa.bool_()),  # whether the likelihood is exact, so that no attacker does better against this pool
    ("victim", pa.int32()),  # number of the observed gradient
    ("candidates", pa.int32()),  # M, the true one included
    ("better", pa.int32()),  # candidates that were scored strictly likelier than the true one
    ("tied", pa.int32()),  # others with its very score
    # Of the labels behind the gradient the share that is inferred right, as often as each comes up, whether or not labels were
    # given; null where they cannot be inferred.
    ("label_share", pa.float64()),
    ("mu", pa.float64()),  # what was observed is mu-GDP for the presence of one image; null without such a guarantee
    ("seconds", pa.float64()),  # of the identification, per victim
])
