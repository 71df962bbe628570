// SPDX-License-Identifier: Apache-2.0
/* Compute loops: r1 = memory, r2 = its length; each section is one program of one function, without maps or helpers. The kernel's verifier follows every
 * iteration (at most a million instructions), which bounds the longest loop. compute.o is made by (see loops.py for the instruction counts)
 *
 *   clang-19 -O2 -target bpf -mcpu=v3 -c compute.bpf.c -o compute.o */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define PROGRAM(name) __attribute__((section("prog_" #name), used)) u64 name(const u8 *data, u64 len)

PROGRAM(fnv1a)
{
	u64 hash = 0xcbf29ce484222325ull;

#pragma clang loop unroll(disable)
	for (u64 i = 0; i < len; i++)
		hash = (hash ^ data[i]) * 0x100000001b3ull;
	return hash;
}

PROGRAM(mix64)
{
	u64 a = 0x9e3779b185ebca87ull, b = 0xc2b2ae3d27d4eb4full;

#pragma clang loop unroll(disable)
	for (u64 i = 0; i + 16 <= len; i += 16) {
		a += *(const u64 *)(data + i) * 0xc2b2ae3d27d4eb4full;
		a = (a << 31 | a >> 33) * 0x9e3779b185ebca87ull;
		b += *(const u64 *)(data + i + 8) * 0xc2b2ae3d27d4eb4full;
		b = (b << 31 | b >> 33) * 0x9e3779b185ebca87ull;
	}
	return a ^ b;
}

PROGRAM(branchy)
{
	u64 letters = 0, digits = 0, others = 0;

#pragma clang loop unroll(disable)
	for (u64 i = 0; i < len; i++) {
		u8 c = data[i];

		if (c >= 'a' && c <= 'z')
			letters += c;
		else if (c >= '0' && c <= '9')
			digits = digits * 3 + c;
		else if (c & 1)
			others ^= c;
		else
			others += 7;
	}
	return letters ^ digits << 20 ^ others << 40;
}

PROGRAM(primes)
{
	u64 count = 0;

#pragma clang loop unroll(disable)
	for (u64 n = 3; n < 2000; n += 2) {
		u64 prime = 1;

#pragma clang loop unroll(disable)
		for (u64 d = 3; d * d <= n; d += 2)
			if (n % d == 0) {
				prime = 0;
				break;
			}
		count += prime;
	}
	return count + len;
}

PROGRAM(xorshift)
{
	u64 x = len | 1;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 20000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return x;
}

/* Stack traffic: a sort of 32 words that exchanges neighbours without branching on them, so that the verifier has one path to follow. */
PROGRAM(sort)
{
	u32 v[32];

	for (u32 i = 0; i < 32; i++)
		v[i] = data[i * 7] << 8 | data[i * 5];
#pragma clang loop unroll(disable)
	for (u32 end = 31; end > 0; end--) {
#pragma clang loop unroll(disable)
		for (u32 i = 0; i < end; i++) {
			u64 left = v[i], right = v[i + 1], swap = right - left;

			__asm__("%0 s>>= 63" : "+r"(swap));
			swap &= left ^ right;
			v[i] = left ^ swap;
			v[i + 1] = right ^ swap;
		}
	}
	return v[3] | (u64)v[28] << 32;
}
