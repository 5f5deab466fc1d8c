"""The demo's network: five gateways around an internet, a host behind each.

::

    host-paris 10.1.0.10 -- paris 192.0.2.2 --\\
    host-lyon  10.2.0.10 -- lyon  198.51.100.2 -- internet
    host-extranet 10.3.0.10 -- extranet 203.0.113.2 --/
    host-office 10.4.0.10 -- office 198.18.0.2 ------/
    host-field 10.64.7.10 -- field 100.64.0.2 -------/

Gateways have routes to each other's outer networks and no default route, so inner traffic that finds no tunnel goes
nowhere. The outer links speak IPv4 only: what a capture in ``internet`` shows is IKE and ESP.
"""

from __future__ import annotations

from dataclasses import dataclass

from deploy.lab.netns import LabError, Namespace, connect

INTERNET = "internet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One gateway with the network behind it; addresses as text."""

    name: str
    outer_address: str
    router_address: str
    outer_network: str
    lan_address: str
    lan_network: str
    host_address: str

    @property
    def host(self) -> str:
        """The role of the host behind the gateway."""
        return f"host-{self.name}"


SITES = (
    Site(
        name="paris", outer_address="192.0.2.2", router_address="192.0.2.1", outer_network="192.0.2.0/24",
        lan_address="10.1.0.1", lan_network="10.1.0.0/24", host_address="10.1.0.10",
    ),
    Site(
        name="lyon", outer_address="198.51.100.2", router_address="198.51.100.1", outer_network="198.51.100.0/24",
        lan_address="10.2.0.1", lan_network="10.2.0.0/24", host_address="10.2.0.10",
    ),
    Site(
        name="extranet", outer_address="203.0.113.2", router_address="203.0.113.1", outer_network="203.0.113.0/24",
        lan_address="10.3.0.1", lan_network="10.3.0.0/24", host_address="10.3.0.10",
    ),
    Site(
        name="office", outer_address="198.18.0.2", router_address="198.18.0.1", outer_network="198.18.0.0/24",
        lan_address="10.4.0.1", lan_network="10.4.0.0/24", host_address="10.4.0.10",
    ),
    Site(
        name="field", outer_address="100.64.0.2", router_address="100.64.0.1", outer_network="100.64.0.0/24",
        lan_address="10.64.7.1", lan_network="10.64.7.0/24", host_address="10.64.7.10",
    ),
)  # fmt: skip

PARIS, LYON, EXTRANET, OFFICE, FIELD = SITES


class Network:
    """The namespaces of one lab, by role."""

    def __init__(self, prefix: str = "") -> None:
        self.internet = Namespace(prefix, INTERNET)
        self.gateways = {site.name: Namespace(prefix, site.name) for site in SITES}
        self.hosts = {site.name: Namespace(prefix, site.host) for site in SITES}

    @property
    def namespaces(self) -> dict[str, Namespace]:
        """Every namespace by role."""
        every = (self.internet, *self.gateways.values(), *self.hosts.values())
        return {namespace.role: namespace for namespace in every}

    def build(self) -> None:
        """Make namespaces, links, addresses and routes; raises :class:`LabError` where a name is taken."""
        for namespace in self.namespaces.values():
            if namespace.identity is not None:
                raise LabError(
                    f"a network namespace named {namespace.name} exists already and is not this lab's: "
                    f"remove it with `ip netns delete {namespace.name}` or leave the lab alone"
                )
        for namespace in self.namespaces.values():
            namespace.create()
        self.internet.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        self.internet.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        self.internet.forward()
        for site in SITES:
            self._build_site(site)

    def _build_site(self, site: Site) -> None:
        gateway, host = self.gateways[site.name], self.hosts[site.name]
        gateway.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        connect(
            gateway,
            "wan",
            [f"{site.outer_address}/24"],
            self.internet,
            f"to-{site.name}",
            [f"{site.router_address}/24"],
        )
        connect(gateway, "lan", [f"{site.lan_address}/24"], host, "eth0", [f"{site.host_address}/24"])
        gateway.forward()
        host.ip("route", "add", "default", "via", site.lan_address)
        for other in SITES:
            if other is not site:
                gateway.ip("route", "add", other.outer_network, "via", site.router_address)

    def remove(self) -> None:
        """Remove every namespace with the processes inside."""
        for namespace in self.namespaces.values():
            namespace.remove()
