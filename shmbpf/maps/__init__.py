"""Maps: bytes (`maps.map.Map`), typed (`maps.typed.TypedMap`), and how to find them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmbpf.errors import ShmbpfError

if TYPE_CHECKING:
    from shmbpf.maps.map import Map
    from shmbpf.maps.typed import TypedMap
    from shmbpf.shm.namespace import Namespace


def find_maps(namespace: Namespace, name: str | None = None) -> list[Map]:
    """The namespace's maps (of that name), opened, in the order of their ids. The caller closes them."""
    from shmbpf.errors import MapKeyError
    from shmbpf.maps.map import Map

    found = []
    for number in namespace.ids("map"):
        try:
            map_ = Map.open(namespace, number)
        except MapKeyError:
            continue  # gone since it was listed
        if name is None or map_.name == name:
            found.append(map_)
        else:
            map_.close()
    return found


def open_map(which: int | str, *, ns: str | Namespace = "default") -> TypedMap:
    """The map with this id, name or pin path (a text with a '/'), typed. Closing it closes the namespace too when that was given by name.

    Raises ShmbpfError when there is no such namespace or map, or several of that name.
    """
    from shmbpf.maps.map import Map
    from shmbpf.maps.typed import TypedMap
    from shmbpf.shm.namespace import Namespace, namespace_exists, namespace_names

    if isinstance(ns, Namespace):
        return TypedMap(_the_map(ns, which, Map))
    if not namespace_exists(ns):
        raise ShmbpfError(f"there is no namespace {ns!r} (there are: {', '.join(namespace_names()) or 'none'})")
    namespace = Namespace(ns)
    try:
        return TypedMap(_the_map(namespace, which, Map), owns_namespace=True)
    except BaseException:
        namespace.close()
        raise


def _the_map(namespace: Namespace, which: int | str, map_class: type[Map]) -> Map:
    if isinstance(which, int):
        return map_class.open(namespace, which)
    if "/" in which:
        from shmbpf.maps.pin import open_pinned

        return open_pinned(namespace, which)
    found = find_maps(namespace, which)
    if len(found) == 1:
        return found[0]
    for map_ in found:
        map_.close()
    if found:
        raise ShmbpfError(f"{len(found)} maps of namespace {namespace.name!r} are called {which!r}: use an id ({', '.join(str(m.id) for m in found)})")
    known = ", ".join(sorted({map_.name for map_ in _closed(find_maps(namespace))})) or "none"
    raise ShmbpfError(f"namespace {namespace.name!r} has no map called {which!r} (maps: {known})")


def _closed(maps: list[Map]) -> list[Map]:
    for map_ in maps:
        map_.close()
    return maps


__all__ = ["find_maps", "open_map"]
