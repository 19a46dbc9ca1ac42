"""What each operation answers: the fields of its result, as types.

Each is a `TypedDict` of JSON's types; what is annotated with a value's type (`Annotated[Fields, Value]`) has that
value's fields, of several types all of them. The description of the API (http/openapi.py) is made from this table, and
answers over HTTP are checked against it in the tests. Sizes are bytes, times are seconds since 1970 unless a name says
otherwise; ids and keys are z-base-32.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from hypernode.api import container_requests as containers
from hypernode.api import image_results as of_images
from hypernode.api import key_requests as keys
from hypernode.api import node_results as of_nodes
from hypernode.api import snapshot_requests as snapshots
from hypernode.api import snapshot_results as of_snapshots
from hypernode.api import version_requests as versions
from hypernode.api.export_requests import Export
from hypernode.api.network_requests import Diagnose, Peers
from hypernode.api.node_requests import Events, Hello
from hypernode.api.requests import Images, Mount, Request, Share, ShowLog, Status, Unmount
from hypernode.api.seed_requests import SeedAdd, SeedRemove, Seeds
from hypernode.api.token_requests import TokenAdd, TokenRevoke, Tokens
from hypernode.api.trace_requests import ForgetTraces, Traces
from vmhost.machine import Usage

RESULTS: Final[dict[type[Request], Any]] = {
    Hello: of_nodes.HelloResult,
    Events: of_nodes.EventsResult,
    Share: of_images.ShareResult,
    Mount: of_nodes.Nothing,
    Unmount: of_nodes.Nothing,
    Images: of_images.ImagesResult,
    ShowLog: of_images.LogResult,
    Status: of_nodes.StatusResult,
    Export: of_images.ExportResult,
    Peers: of_nodes.PeersResult,
    Diagnose: of_nodes.DiagnoseResult,
    versions.Show: of_images.ShowResult,
    versions.Diff: of_images.DiffResult,
    versions.SetTag: of_images.TagResult,
    versions.List: of_images.ListResult,
    versions.Cat: of_images.CatResult,
    versions.CheckOut: of_images.CheckOutResult,
    versions.Fork: of_images.Made,
    versions.Commit: of_images.CommitResult,
    versions.Volumes: of_images.VolumesResult,
    versions.RemoveVolume: of_nodes.Nothing,
    versions.Pull: of_images.PullResult,
    versions.Verify: of_images.VerifyResult,
    versions.Pin: of_images.PinResult,
    versions.Collect: of_images.CollectResult,
    versions.Usage: of_images.UsageResult,
    keys.Keys: of_nodes.KeysResult,
    keys.ExportKey: of_nodes.ExportedKey,
    keys.ImportKey: of_nodes.OwnKey,
    keys.RotateKey: of_nodes.RotateResult,
    keys.Writers: of_nodes.WritersResult,
    keys.AskToWrite: of_nodes.KeyResult,
    keys.GrantWriter: of_nodes.KeyResult,
    keys.RevokeWriter: of_nodes.KeyResult,
    SeedAdd: of_nodes.SeedResult,
    SeedRemove: of_nodes.SeedsRemoved,
    Seeds: of_nodes.SeedsResult,
    Traces: of_images.TracesResult,
    ForgetTraces: of_images.TracesForgotten,
    TokenAdd: of_nodes.TokenMade,
    TokenRevoke: of_nodes.TokensRevoked,
    Tokens: of_nodes.TokensResult,
    containers.CreateContainer: of_nodes.ContainerMade,
    containers.StartContainer: of_nodes.ContainerStarted,
    containers.RestartContainer: of_nodes.ContainerStarted,
    containers.RemoveContainer: of_nodes.ContainerId,
    containers.RenameContainer: of_nodes.ContainerId,
    containers.UpdateContainer: of_nodes.ContainerId,
    containers.ListContainers: of_nodes.ContainersResult,
    containers.InspectContainer: of_nodes.ContainerRow,
    containers.StopContainer: of_nodes.Nothing,
    containers.KillContainer: of_nodes.Nothing,
    containers.PauseContainer: of_nodes.Nothing,
    containers.UnpauseContainer: of_nodes.Nothing,
    containers.WaitContainer: of_nodes.ExitResult,
    containers.ContainerStats: Annotated[of_images.Fields, of_nodes.Moment, Usage],
    containers.ContainerProcesses: of_nodes.ProcessesResult,
    snapshots.SnapshotContainer: of_snapshots.SnapshotRow,
    snapshots.ListSnapshots: of_snapshots.SnapshotsResult,
    snapshots.RemoveSnapshot: of_snapshots.SnapshotsRemoved,
    snapshots.RestoreSnapshot: of_nodes.ContainerMade,
}
"""Of every request that is answered by one result."""
