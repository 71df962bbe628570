/* Compute loops for the interpreter: r1 = memory, r2 = its length; each section is one program of one function, without maps or helpers. */
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
	for (u32 i = 0; i < 110000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return x;
}

/* Stack traffic: an insertion sort of 32 words. */
PROGRAM(sort)
{
	u32 v[32];

	for (u32 i = 0; i < 32; i++)
		v[i] = data[i * 7] << 8 | data[i * 5];
#pragma clang loop unroll(disable)
	for (u32 i = 1; i < 32; i++) {
		u32 key = v[i], j = i;

#pragma clang loop unroll(disable)
		while (j > 0 && j < 32 && v[j - 1] > key) {
			v[j] = v[j - 1];
			j--;
		}
		v[j & 31] = key;
	}
	return v[3] | (u64)v[28] << 32;
}
