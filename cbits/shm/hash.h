/*
 * hash.h - seeded hash of a map key: folded 64x64->128 bit multiplications.
 *
 * The seed is random per map, so nobody outside can aim keys at one bucket; BPF_F_ZERO_SEED makes it 0. Keys of 4 and 8 bytes, nearly all there are, take
 * one multiplication, others one for each 8 bytes. Stored hashes never leave a namespace: the function may change with the ABI fingerprint.
 */
#ifndef SHMBPF_SHM_HASH_H
#define SHMBPF_SHM_HASH_H

#include "atomic.h"

#define SHM_HASH_A 0x9d3f8a5bc6e172d5ull
#define SHM_HASH_B 0xe7b1c94d2f6a8359ull

shm_inline uint64_t shm_fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

shm_inline uint32_t shm_hash4(const void *key, uint32_t seed)
{
	uint32_t word;

	memcpy(&word, key, 4);
	return (uint32_t)shm_fold(((uint64_t)seed << 32 | word) ^ SHM_HASH_B, SHM_HASH_A);
}

shm_inline uint32_t shm_hash8(const void *key, uint32_t seed)
{
	uint64_t word;

	memcpy(&word, key, 8);
	return (uint32_t)shm_fold(word ^ SHM_HASH_B, SHM_HASH_A ^ (uint64_t)seed << 16);
}

/* Any length; constant lengths compile to straight code. */
shm_inline uint32_t shm_hash_words(const void *key, uint32_t bytes, uint32_t seed)
{
	const uint8_t *from = key;
	uint64_t word, h = SHM_HASH_A ^ (uint64_t)seed << 16 ^ bytes;

	for (; bytes >= 8; bytes -= 8, from += 8) {
		memcpy(&word, from, 8);
		h = shm_fold(word ^ SHM_HASH_B, h);
	}
	if (bytes) {
		word = 0;
		memcpy(&word, from, bytes);
		h = shm_fold(word ^ SHM_HASH_B, h);
	}
	/* a zero factor would forget everything before it: once more with a constant */
	return (uint32_t)shm_fold(h ^ SHM_HASH_B, SHM_HASH_A);
}

shm_inline uint32_t shm_hash(const void *key, uint32_t bytes, uint32_t seed)
{
	switch (bytes) {
	case 4:
		return shm_hash4(key, seed);
	case 8:
		return shm_hash8(key, seed);
	case 12:
		return shm_hash_words(key, 12, seed);
	case 16:
		return shm_hash_words(key, 16, seed);
	default:
		return shm_hash_words(key, bytes, seed);
	}
}

#endif
