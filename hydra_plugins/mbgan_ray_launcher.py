"""A Hydra launcher that runs a sweep's jobs on Ray. Hydra takes plugins from this package only."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf


class RayLauncher(BasicLauncher):
    """Runs jobs as Ray tasks, on this machine or on a cluster that shares the sweep's folder.

    Hydra's own Ray launcher pins cloudpickle under 3, which joblib no longer takes.

    Args:
        init: of ray.init; address=auto for a cluster that is there.
        task: what a job takes of it: num_cpus, num_gpus.
    """

    def __init__(self, init: dict[str, Any], task: dict[str, Any]) -> None:
        super().__init__()
        self.init: Any = OmegaConf.to_container(OmegaConf.create(init), resolve=True)
        self.task: Any = OmegaConf.to_container(OmegaConf.create(task), resolve=True)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs as tasks and return how each ended, in their order.

        Raises:
            ValueError: without Ray.
        """
        try:
            import ray
        except ImportError:
            raise ValueError("hydra/launcher=ray needs Ray: pip install 'mbgan[ray]'") from None

        state = Singleton.get_state()

        def job(overrides: Sequence[str], number: int) -> JobReturn:
            Singleton.set_state(state)
            (ended,) = BasicLauncher.launch(self, [overrides], number)
            return ended

        ray.init(**self.init)
        try:
            task = ray.remote(**self.task)(job)
            numbered = enumerate(job_overrides, initial_job_idx)
            results: list[JobReturn] = ray.get([task.remote(list(o), i) for i, o in numbered])
            return results
        finally:
            ray.shutdown()
