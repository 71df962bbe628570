/*
 * registry.c - what one process has open: map id -> struct map, program id -> struct vm_prog.
 *
 * Private to its process, used by one thread at a time. Entries are opened by segment name on first use, so a worker follows a tail call to a program
 * that was loaded long after it was forked. A failed open is not remembered: the object may appear later.
 *
 * Small and linear on purpose: a namespace has tens of objects, the lookups are on slow paths (the interpreter keeps pointers), and ids are never reused.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shmbpf/vm.h"

enum { NAME_BYTES = 256 };

struct open_prog {
	struct vm_prog *prog;
	uint8_t *base;
	uint64_t bytes;
	uint32_t id;
	int fd;
};

struct vm_registry {
	struct shm_client *client;
	char prefix[NAME_BYTES - 32];
	struct map *maps[VM_MAX_MAPS];      /* NULL: dropped; a map's index never changes */
	uint32_t map_cnt;
	struct open_prog *progs;
	uint32_t prog_cnt;
	uint32_t prog_room;
};

struct vm_registry *vm_registry_new(const char *prefix, struct shm_client *client)
{
	struct vm_registry *registry = calloc(1, sizeof(*registry));

	if (!registry)
		return NULL;
	if (snprintf(registry->prefix, sizeof(registry->prefix), "%s", prefix) >= (int)sizeof(registry->prefix)) {
		free(registry);
		return NULL;
	}
	registry->client = client;
	return registry;
}

static void close_segment(uint8_t *base, uint64_t bytes, int fd)
{
	shm_unmap(base, bytes);
	if (fd >= 0)
		close(fd);
}

static void close_map(struct map *map)
{
	map_detach(map);
	close_segment(map->base, map->bytes, map->fd);
	free(map);
}

static void close_prog(struct open_prog *entry)
{
	vm_prog_free(entry->prog);
	close_segment(entry->base, entry->bytes, entry->fd);
}

void vm_registry_free(struct vm_registry *registry)
{
	if (!registry)
		return;
	for (uint32_t i = 0; i < registry->prog_cnt; i++)
		close_prog(&registry->progs[i]);
	for (uint32_t i = 0; i < registry->map_cnt; i++)
		if (registry->maps[i])
			close_map(registry->maps[i]);
	free(registry->progs);
	free(registry);
}

static int open_segment(struct vm_registry *registry, const char *kind_word, uint32_t kind, uint32_t id, uint8_t **base, uint64_t *bytes)
{
	char name[NAME_BYTES];

	snprintf(name, sizeof(name), "%s.%s.%u", registry->prefix, kind_word, id);
	return shm_open_segment(name, kind, base, bytes);
}

static struct map *open_map(struct vm_registry *registry, uint32_t id, int *error)
{
	struct map *map = calloc(1, sizeof(*map));
	uint8_t *base;
	uint64_t bytes;
	int fd;

	if (!map) {
		*error = -ENOMEM;
		return NULL;
	}
	fd = open_segment(registry, "map", SHM_KIND_MAP, id, &base, &bytes);
	if (fd < 0) {
		*error = fd;
		free(map);
		return NULL;
	}
	*error = map_attach(map, base, bytes);
	map->fd = fd;
	if (!*error && map->id == id)
		return map;
	if (!*error)
		*error = -EINVAL;
	close_segment(base, bytes, fd);
	free(map);
	return NULL;
}

struct map *vm_registry_map(struct vm_registry *registry, uint32_t id, int *error)
{
	struct map *map;

	*error = 0;
	for (uint32_t i = 0; i < registry->map_cnt; i++)
		if (registry->maps[i] && registry->maps[i]->id == id)
			return registry->maps[i];
	if (registry->map_cnt == VM_MAX_MAPS) {
		*error = -ENOSPC;
		return NULL;
	}
	map = open_map(registry, id, error);
	if (!map)
		return NULL;
	map->region = registry->map_cnt;
	registry->maps[registry->map_cnt++] = map;
	return map;
}

uint32_t vm_registry_map_count(const struct vm_registry *registry)
{
	return registry->map_cnt;
}

struct map *vm_registry_map_at(const struct vm_registry *registry, uint32_t index)
{
	return index < registry->map_cnt ? registry->maps[index] : NULL;
}

static int open_prog(struct vm_registry *registry, uint32_t id, struct open_prog *entry, struct vm_error *error)
{
	struct prog_image image;
	int err;

	entry->fd = open_segment(registry, "prog", SHM_KIND_PROG, id, &entry->base, &entry->bytes);
	if (entry->fd < 0) {
		snprintf(error->text, sizeof(error->text), "program id %u cannot be opened: %s", id, strerror(-entry->fd));
		return entry->fd;
	}
	err = prog_image_of(&image, entry->base, entry->bytes);
	if (err || image.id != id) {
		snprintf(error->text, sizeof(error->text), "program id %u: its segment is damaged", id);
		err = err ? err : -EINVAL;
	} else {
		entry->prog = vm_prog_new(registry, &image, error);
		err = entry->prog ? 0 : -EINVAL;
	}
	if (err)
		close_segment(entry->base, entry->bytes, entry->fd);
	entry->id = id;
	return err;
}

static struct open_prog *grow(struct vm_registry *registry)
{
	uint32_t room = registry->prog_room ? registry->prog_room * 2 : 16;
	struct open_prog *progs;

	if (registry->prog_cnt < registry->prog_room)
		return &registry->progs[registry->prog_cnt];
	progs = realloc(registry->progs, room * sizeof(*progs));
	if (!progs)
		return NULL;
	registry->progs = progs;
	registry->prog_room = room;
	return &progs[registry->prog_cnt];
}

struct vm_prog *vm_registry_prog(struct vm_registry *registry, uint32_t id, struct vm_error *error)
{
	struct open_prog entry = { .fd = -1 }, *place;

	error->insn = 0;
	error->text[0] = '\0';
	for (uint32_t i = 0; i < registry->prog_cnt; i++)
		if (registry->progs[i].id == id)
			return registry->progs[i].prog;
	if (open_prog(registry, id, &entry, error))
		return NULL;
	place = grow(registry);
	if (!place) {
		close_prog(&entry);
		snprintf(error->text, sizeof(error->text), "program id %u: out of memory", id);
		return NULL;
	}
	*place = entry;
	registry->prog_cnt++;
	return entry.prog;
}

void vm_registry_drop(struct vm_registry *registry, uint32_t kind, uint32_t id)
{
	for (uint32_t i = 0; kind == SHM_KIND_MAP && i < registry->map_cnt; i++) {
		if (!registry->maps[i] || registry->maps[i]->id != id)
			continue;
		close_map(registry->maps[i]);
		registry->maps[i] = NULL;
	}
	for (uint32_t i = 0; kind == SHM_KIND_PROG && i < registry->prog_cnt; i++) {
		if (registry->progs[i].id != id)
			continue;
		close_prog(&registry->progs[i]);
		registry->progs[i] = registry->progs[--registry->prog_cnt];
		return;
	}
}
