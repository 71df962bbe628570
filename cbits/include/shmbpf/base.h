/*
 * base.h - integer types and nothing else.
 *
 * These headers are read twice: by the C compiler, and (preprocessed with SHMBPF_CDEF) by cffi, which knows the fixed-width types by itself and
 * understands neither attributes nor inline bodies. So an ABI header has enums, structs with explicit padding, and prototypes; code that must be
 * inlined lives in private headers beside the .c files.
 */
#ifndef SHMBPF_BASE_H
#define SHMBPF_BASE_H

#ifndef SHMBPF_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

#endif
