/*
 * atomic.h - how C code here touches shared memory: every word that more than one process uses goes through these, never through a plain access.
 *
 * Publish with a release store after all initialising stores, consume with an acquire load. Copies of keys and values are made of relaxed stores and loads
 * of the largest naturally aligned words, so an aligned integer of up to 8 bytes is never seen torn.
 */
#ifndef SHMBPF_SHM_ATOMIC_H
#define SHMBPF_SHM_ATOMIC_H

#include <stdint.h>
#include <string.h>

#define shm_load(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define shm_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define shm_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define shm_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define shm_fence_acquire() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define shm_fence_release() __atomic_thread_fence(__ATOMIC_RELEASE)

#define shm_likely(x) __builtin_expect(!!(x), 1)
#define shm_unlikely(x) __builtin_expect(!!(x), 0)
#define shm_inline static inline __attribute__((always_inline))

_Static_assert(__atomic_always_lock_free(8, 0) && __atomic_always_lock_free(4, 0), "shared memory needs lock-free 4- and 8-byte atomics");

/* Replaces *word when it is `from`; 1 = done. Acquire: what the previous owner wrote is visible. */
shm_inline int shm_cas(uint32_t *word, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(word, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* Private bytes at any alignment -> shared bytes at an 8-byte aligned address. */
shm_inline void shm_copy_in(uint8_t *shared, const void *from, uint32_t bytes)
{
	const uint8_t *src = from;

	for (; bytes >= 8; bytes -= 8, src += 8, shared += 8) {
		uint64_t word;

		memcpy(&word, src, 8);
		shm_store((uint64_t *)shared, word);
	}
	if (bytes & 4) {
		uint32_t word;

		memcpy(&word, src, 4);
		shm_store((uint32_t *)shared, word);
		src += 4, shared += 4;
	}
	if (bytes & 2) {
		uint16_t word;

		memcpy(&word, src, 2);
		shm_store((uint16_t *)shared, word);
		src += 2, shared += 2;
	}
	if (bytes & 1)
		shm_store(shared, *src);
}

/* Shared bytes at an 8-byte aligned address -> private bytes at any alignment. */
shm_inline void shm_copy_out(void *to, const uint8_t *shared, uint32_t bytes)
{
	uint8_t *dst = to;

	for (; bytes >= 8; bytes -= 8, dst += 8, shared += 8) {
		uint64_t word = shm_load((const uint64_t *)shared);

		memcpy(dst, &word, 8);
	}
	if (bytes & 4) {
		uint32_t word = shm_load((const uint32_t *)shared);

		memcpy(dst, &word, 4);
		dst += 4, shared += 4;
	}
	if (bytes & 2) {
		uint16_t word = shm_load((const uint16_t *)shared);

		memcpy(dst, &word, 2);
		dst += 2, shared += 2;
	}
	if (bytes & 1)
		*dst = shm_load(shared);
}

/* Shared bytes -> 0. `bytes` is a multiple of 8. */
shm_inline void shm_zero(uint8_t *shared, uint32_t bytes)
{
	for (; bytes >= 8; bytes -= 8, shared += 8)
		shm_store((uint64_t *)shared, 0);
}

#endif
