"""What libvirt refuses, with its own codes: one exception class for all of its API.

libvirt, include/libvirt/virterror.h.  A message is what libvirt 9.0 says, word for word where a
learner would search for it.
"""

from kvmlab.base.errors import KvmlabError

VIR_ERR_INTERNAL_ERROR = 1
VIR_ERR_NO_SUPPORT = 3
VIR_ERR_INVALID_ARG = 8
VIR_ERR_OPERATION_FAILED = 9
VIR_ERR_NO_NAME = 21
VIR_ERR_XML_ERROR = 27
VIR_ERR_XML_DETAIL = 35
VIR_ERR_NO_DOMAIN = 42
VIR_ERR_OPERATION_INVALID = 55
VIR_ERR_CONFIG_UNSUPPORTED = 67
VIR_ERR_OVERFLOW = 82
VIR_ERR_ERROR = 2  # a level: an error, not a warning


class libvirtError(KvmlabError):
    """Every failure of the API; ``str()`` of it is libvirt's message."""

    def __init__(self, message: str, code: int = VIR_ERR_INTERNAL_ERROR) -> None:
        super().__init__(message)
        self._code = code

    def get_error_code(self) -> int:
        """One of the VIR_ERR_ numbers."""
        return self._code

    def get_error_level(self) -> int:
        """VIR_ERR_ERROR."""
        return VIR_ERR_ERROR

    def get_error_message(self) -> str:
        """The message."""
        return str(self)


def invalid_argument(detail: str) -> libvirtError:
    """VIR_ERR_INVALID_ARG with the prefix that libvirt gives its details."""
    return libvirtError(f"invalid argument: {detail}", VIR_ERR_INVALID_ARG)


def not_valid(detail: str) -> libvirtError:
    """VIR_ERR_OPERATION_INVALID: right in itself, wrong in the domain's present state."""
    return libvirtError(f"Requested operation is not valid: {detail}", VIR_ERR_OPERATION_INVALID)


def internal(detail: str) -> libvirtError:
    """VIR_ERR_INTERNAL_ERROR."""
    return libvirtError(f"internal error: {detail}", VIR_ERR_INTERNAL_ERROR)


def xml_error(detail: str) -> libvirtError:
    """VIR_ERR_XML_ERROR."""
    return libvirtError(f"XML error: {detail}", VIR_ERR_XML_ERROR)
