"""What can be wrong with a kernel: one exception for each, all of them `PtxError`."""


class PtxError(Exception):
    """A fault of a kernel, or of how it was launched."""


class ParseError(PtxError):
    """Text that is not PTX, as far as the parser knows it."""


class UnknownInstructionError(PtxError):
    """An instruction, or one of its modifiers, that the interpreter lacks; raised before anything runs."""


class LaunchError(PtxError):
    """Arguments, a grid or a block that do not fit the kernel."""


class OutOfBoundsError(PtxError):
    """An address outside every allocation, or an access across the end of one."""


class MisalignedError(PtxError):
    """An address that is not a multiple of the whole access's size."""


class UninitialisedError(PtxError):
    """A read of memory that nobody has written."""


class SharedRaceError(PtxError):
    """Two threads of a block at one byte of shared memory, one of them writing, with no barrier between."""


class GlobalRaceError(PtxError):
    """Two threads of a launch that write one byte of global memory."""


class ShuffleError(PtxError):
    """An exchange among the lanes of a warp in which a lane is missing."""


class DeadlockError(PtxError):
    """Threads that wait for others that never come."""


class EndlessError(PtxError):
    """More steps than the launch allows."""
