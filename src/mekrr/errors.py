"""Errors that a caller would want to catch; everything else is a built-in exception."""


class MekrrError(Exception):
    """Base of mekrr's own errors: the message says what is wrong, what was received and what to do."""


class DataError(MekrrError):
    """A data set cannot be used as it is: the message names file and structure index."""


class BackboneUnavailableError(MekrrError):
    """A backbone is unknown, its package is not installed or its weights are not there."""


class EngineError(MekrrError):
    """A simulation program is not installed, too old, or cannot run what it was given."""


class ClusterError(MekrrError):
    """A cluster does not answer, has lost its workers, or its workers are not like this process."""


class LabelError(MekrrError):
    """A calculator cannot be made, or what it returns is no label."""


class ThresholdPassedError(MekrrError):
    """A run was to stop when its deviation passes a threshold, and it did."""


class ModelFileError(MekrrError):
    """A model file is truncated, of a newer format, or belongs to another backbone."""


class FeatureFileError(MekrrError):
    """A feature file is truncated, of another version, or does not hold what is asked of it."""


class NotPositiveDefiniteError(MekrrError):
    """A matrix that must be positive definite is not, within rounding."""


class MekrrWarning(UserWarning):
    """A result is usable, but there is something to know about it."""
