/*
 * value.c - copying of values between callers and shared memory.
 *
 * A value may hold a struct bpf_spin_lock. It belongs to the element, not to the value: copies leave it alone in shared memory and show 0 outside
 * (Linux v6.12 include/linux/bpf.h, copy_map_value(), check_and_init_map_value()). Its word is an owner word like every lock here, so a program that dies
 * inside its critical section blocks nobody; the value may then be half-updated, as it may be on Linux when a program forgets a field.
 */
#include "rows.h"

/* Words of the piece [from, to) of a value; `from` may be 4 mod 8 behind a spin lock. */
static void write_piece(uint8_t *shared, const uint8_t *value, uint32_t from, uint32_t to)
{
	if (from & 4 && to - from >= 4) {
		uint32_t word;

		memcpy(&word, value + from, 4);
		shm_store((uint32_t *)(shared + from), word);
		from += 4;
	}
	if (from & 4) {               /* fewer than 4 bytes behind the lock, at an address that is 4 mod 8 */
		for (; from < to; from++)
			shm_store(shared + from, value[from]);
		return;
	}
	if (from < to)
		shm_copy_in(shared + from, value + from, to - from);
}

static void read_piece(uint8_t *value, const uint8_t *shared, uint32_t from, uint32_t to)
{
	if (from & 4 && to - from >= 4) {
		uint32_t word = shm_load((const uint32_t *)(shared + from));

		memcpy(value + from, &word, 4);
		from += 4;
	}
	if (from & 4) {               /* fewer than 4 bytes behind the lock, at an address that is 4 mod 8 */
		for (; from < to; from++)
			value[from] = shm_load(shared + from);
		return;
	}
	if (from < to)
		shm_copy_out(value + from, shared + from, to - from);
}

void map_value_write(const struct map *map, uint8_t *shared, const void *value)
{
	if (shm_likely(!map_has_spin_lock(map))) {
		shm_copy_in(shared, value, map->value_size);
		return;
	}
	write_piece(shared, value, 0, map->spin_lock_off);
	write_piece(shared, value, map->spin_lock_off + 4, map->value_size);
}

void map_value_read(const struct map *map, void *value, const uint8_t *shared)
{
	if (shm_likely(!map_has_spin_lock(map))) {
		shm_copy_out(value, shared, map->value_size);
		return;
	}
	read_piece(value, shared, 0, map->spin_lock_off);
	memset((uint8_t *)value + map->spin_lock_off, 0, 4);
	read_piece(value, shared, map->spin_lock_off + 4, map->value_size);
}

static int lock_value(struct map *map, struct shm_client *me, uint32_t *word)
{
	int got = shm_lock_word(me, word);

	if (got == 1)
		__atomic_fetch_add(&map->ctl->recovered, 1, __ATOMIC_RELAXED);
	return got < 0 ? got : 0;
}

int map_value_write_locked(struct map *map, struct shm_client *me, uint8_t *shared, const void *value)
{
	uint32_t *word = (uint32_t *)(shared + map->spin_lock_off);
	int err = lock_value(map, me, word);

	if (err)
		return err;
	SHM_POINT(array_value_locked);
	map_value_write(map, shared, value);
	shm_unlock_word(me, word);
	return 0;
}

int map_value_read_locked(struct map *map, struct shm_client *me, void *value, const uint8_t *shared)
{
	uint32_t *word = (uint32_t *)(shared + map->spin_lock_off);
	int err = lock_value(map, me, word);

	if (err)
		return err;
	map_value_read(map, value, shared);
	shm_unlock_word(me, word);
	return 0;
}

int map_value_unlock_dead(struct map *map, struct shm_client *me, uint8_t *shared)
{
	uint32_t *word = (uint32_t *)(shared + map->spin_lock_off);
	uint32_t seen = shm_load(word);

	if (seen == 0 || shm_owner_alive(me, seen & ~SHM_WAITERS) || !shm_cas(word, seen, 0))
		return 0;
	__atomic_fetch_add(&map->ctl->recovered, 1, __ATOMIC_RELAXED);
	return 1;
}

uint64_t map_value_add(uint8_t *shared, uint32_t width, uint64_t delta)
{
	switch (width) {
	case 1:
		return __atomic_add_fetch(shared, (uint8_t)delta, __ATOMIC_SEQ_CST);
	case 2:
		return __atomic_add_fetch((uint16_t *)shared, (uint16_t)delta, __ATOMIC_SEQ_CST);
	case 4:
		return __atomic_add_fetch((uint32_t *)shared, (uint32_t)delta, __ATOMIC_SEQ_CST);
	default:
		return __atomic_add_fetch((uint64_t *)shared, delta, __ATOMIC_SEQ_CST);
	}
}

void map_percpu_write(const struct map *map, uint64_t elem_off, const void *values)
{
	const uint8_t *from = values;
	uint32_t bytes = (uint32_t)map_round8(map->value_size);

	for (uint32_t cpu = 0; cpu < map->ncpu; cpu++, from += bytes) {
		shm_copy_in(map->values + cpu * map->cpu_bytes + elem_off, from, bytes);
		SHM_POINT(htab_percpu_written);
	}
}

void map_percpu_read(const struct map *map, uint64_t elem_off, void *values)
{
	uint8_t *to = values;
	uint32_t bytes = (uint32_t)map_round8(map->value_size);

	for (uint32_t cpu = 0; cpu < map->ncpu; cpu++, to += bytes)
		shm_copy_out(to, map->values + cpu * map->cpu_bytes + elem_off, bytes);
}
