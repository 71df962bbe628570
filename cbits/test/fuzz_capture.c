/*
 * fuzz_capture.c - libFuzzer target: any bytes as a capture, whole and as a stream that arrives in two parts.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -std=gnu11 -Icbits/include -Icbits cbits/test/fuzz_capture.c cbits/net/capture.c cbits/net/pcapng.c
 *
 * Checked: nothing outside the window is read (the input is an exact allocation), reading ends, packets lie inside the window, and both ways of reading give the
 * same packets.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shmbpf/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static uint64_t digest(uint64_t sum, const struct cap_reader *reader, const struct cap_packet *packet)
{
	uint32_t i;

	if (packet->off > reader->bytes || packet->caplen > reader->bytes - packet->off || packet->len < packet->caplen || packet->caplen > CAP_MAX_PACKET)
		abort();
	for (i = 0; i < packet->caplen; i++)
		sum = sum * 31 + reader->base[packet->off + i];
	return (sum ^ packet->ts_ns) * 31 + packet->linktype + packet->len;
}

static uint64_t read_window(struct cap_reader *reader, const uint8_t *data, size_t bytes, uint32_t final, uint64_t sum)
{
	struct cap_packet packet;
	size_t packets = 0;
	int ret;

	reader->base = data;
	reader->bytes = bytes;
	reader->final = final;
	while ((ret = cap_next(reader, &packet)) == 1) {
		sum = digest(sum, reader, &packet);
		if (++packets > bytes)
			abort();
	}
	if (ret != 0 && ret != -EINVAL && !(ret == -EAGAIN && !final))
		abort();
	if (ret == -EINVAL && !reader->warning[0])
		abort();
	return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct cap_reader whole, stream;
	size_t part = bytes / 2;
	uint8_t *first = malloc(part ? part : 1);
	uint64_t sum;

	memcpy(first, data, part);
	cap_init(&whole);
	cap_init(&stream);
	sum = read_window(&stream, first, part, 0, 1);
	if (read_window(&stream, data, bytes, 1, sum) != read_window(&whole, data, bytes, 1, 1))
		abort();
	free(first);
	return 0;
}
