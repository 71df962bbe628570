"""Make clang's BTF acceptable to the kernel, keeping every type id.

clang leaves the size of a DATASEC at 0 for the loader to fill in, and knows extern variables; the kernel refuses both (Linux v6.12
kernel/bpf/btf.c, btf_datasec_check_meta() and btf_var_check_meta()). The oracle needs function and map value types only, so both kinds are
replaced by anonymous one-byte integers, which nothing refers to.
"""

from __future__ import annotations

import struct

_KIND_INT, _KIND_VAR, _KIND_DATASEC = 1, 14, 15
_EXTERN = 2
_ANONYMOUS_BYTE = struct.pack("<IIII", 0, _KIND_INT << 24, 1, 8)
#: kind -> bytes behind struct btf_type: a fixed part, and so many for each of `vlen`
_TAIL_BYTES = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12), 17: (4, 0), 19: (0, 12)}


def loadable_btf(data: bytes) -> bytes:
    """The same types under the same ids, without DATASECs and extern variables."""
    _, version, flags, header_bytes, types_off, types_len, strings_off, strings_len = struct.unpack_from("<HBBIIIII", data)
    types = _replaced(data[header_bytes + types_off : header_bytes + types_off + types_len])
    strings = data[header_bytes + strings_off : header_bytes + strings_off + strings_len]
    header = struct.pack("<HBBIIIII", 0xEB9F, version, flags, 24, 0, len(types), len(types), strings_len)
    return header + types + strings


def _replaced(types: bytes) -> bytes:
    out, at = [], 0
    while at < len(types):
        _, info, _ = struct.unpack_from("<III", types, at)
        kind, vlen = info >> 24 & 31, info & 0xFFFF
        fixed, each = _TAIL_BYTES.get(kind, (0, 0))
        end = at + 12 + fixed + each * vlen
        is_extern = kind == _KIND_VAR and struct.unpack_from("<I", types, at + 12)[0] == _EXTERN
        out.append(_ANONYMOUS_BYTE if kind == _KIND_DATASEC or is_extern else types[at:end])
        at = end
    return b"".join(out)
