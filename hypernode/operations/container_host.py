"""The containers of a home, for the operations on them."""

from __future__ import annotations

from hypernode.config import Config
from hypernode.containers.reconcile import reconcile
from hypernode.containers.store import Container, ContainerStore, labels_of
from hypernode.node import Node
from hypernode.volumes import VolumeStore


class ContainerHost:
    """The containers of a home, and its node if that is in this process."""

    def __init__(self, config: Config, node: Node | None) -> None:
        self.config = config
        self.node = node
        self.store = ContainerStore(config.containers)
        self.volumes = VolumeStore(config.volumes) if node is None else node.volumes
        self.starter = config.starter if node is not None and node.is_daemon else None

    async def find(self, text: str) -> Container:
        """As it really is. Raises `NotFound`, `Conflict`."""
        container = self.store.get(text)
        await self.reconcile([container])
        return self.store.get(container.spec.id)

    async def reconcile(self, containers: list[Container]) -> list[Container]:
        """Put right what a crash left; those that it was about."""
        found = await reconcile(self.config, containers, has_node=self.node is not None)
        for ended in found:
            self.tell(ended, "die", exitCode=ended.read_state().exit_code)
        return found

    def tell(self, container: Container, action: str, /, **attributes: object) -> None:
        """An event of Docker's name, with the container's labels as far as they have names of their own."""
        if self.node is not None:
            told = {"image": container.spec.asked.link, "name": container.spec.name, **attributes}
            told |= {name: value for name, value in labels_of(container).items() if name not in told}
            self.node.events.emit("container", action, container.spec.id, **told)
