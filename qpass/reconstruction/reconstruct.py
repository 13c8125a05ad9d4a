"""fitted -> fitted: learns each transformer block's weights and quantizers to match the float block.

Papers: AIQViT (https://arxiv.org/abs/2502.04628), I&S-ViT (https://arxiv.org/abs/2311.10126).
Block-wise reconstruction is from BRECQ (https://arxiv.org/abs/2102.05426).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.config.options import BlockInputs
from qpass.config.reconstruction import ReconstructionConfig
from qpass.data import ModelInputs
from qpass.data.rows import batch_size, has_own_rows
from qpass.errors import UnsupportedError
from qpass.graph.edit import flat_inputs
from qpass.graph.facts import facts_of, update_facts
from qpass.graph.signature.input_dims import layout_of
from qpass.passes.analysis.blocks import require_blocks
from qpass.passes.analysis.reference import Reference
from qpass.passes.base import Pass
from qpass.progress import StepBar
from qpass.reconstruction.block import LearnableBlock
from qpass.reconstruction.checkpoint import BlockCheckpoints
from qpass.reconstruction.network_loss import NetworkLoss
from qpass.reconstruction.record import BlockRecord
from qpass.reconstruction.samples import SampleStore, advance
from qpass.reconstruction.segments import AFTER_BLOCKS, Segment, cut_after_segments, cut_into_segments, cut_with_ends
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.records import record
from qpass.runtime.storage import Storage
from qpass.runtime.tensor_file import digest


class Reconstruct(Pass):
    """Learns the blocks in order, with targets from the float network and inputs from finished blocks.

    Each block has its own random generator, so that a killed and resumed run gives bit-identical
    results.

    Args:
        config: How blocks are learned.
        batches: Calls of the model.
        reference: The float network; None uses the graph with its quantizers disabled.
        stage: Name of this stage in the records, if a recipe learns several times.
        seed: Random seed.
        checkpoint_dir: Folder for finished blocks, so that a killed run can resume; None saves nothing.
        storage: Where to keep values that cross the cuts; None keeps them in memory.
        processes: Processes that share the samples. Each learns from its own, and all take the same
            steps; the first one saves blocks.
        show_progress: Show a progress bar.
    """

    takes, gives = "fitted", "fitted"

    def __init__(
        self,
        config: ReconstructionConfig,
        batches: Sequence[ModelInputs],
        *,
        reference: Reference | None = None,
        stage: str = "",
        seed: int = 0,
        checkpoint_dir: Path | None = None,
        storage: Storage | None = None,
        processes: Processes = ALONE,
        show_progress: bool = False,
    ) -> None:
        self.config, self.batches, self.stage, self.seed = config, batches, stage, seed
        self.checkpoint_dir, self.show_progress = checkpoint_dir, show_progress
        self.reference = Reference() if reference is None else reference
        self.storage = Storage() if storage is None else storage
        self.processes = processes

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``. Changes parameters, not the graph.

        Raises:
            UnsupportedError: If the graph has no transformer block.
            ConfigError: If ``checkpoint_dir`` holds blocks of another run.
        """
        earlier: tuple[BlockRecord, ...] = facts_of(graph_module).reconstruction
        if any(one.stage == self.stage for one in earlier):
            return False
        require_blocks(graph_module)
        float_network = self.reference.beside(graph_module)
        cut = cut_with_ends if self.config.ends else cut_into_segments
        segments, reference = cut(graph_module), cut(float_network)
        rests = cut_after_segments(float_network) if self.config.output_weight else None
        if has_own_rows(layout_of(graph_module)):
            raise UnsupportedError(
                "its inputs have row counts of their own, and blocks are learned sample by sample",
                where="reconstruct",
                expected="inputs with one sample a row each",
                hint="choose a recipe without reconstruction, such as 'w4a4', or quantize the towers with submodules=",
            )
        config, processes = self._fitting_batch(graph_module), self.processes
        device = next((tensor.device for tensor in graph_module.state_dict().values()), torch.device("cpu"))
        fingerprint = "" if self.checkpoint_dir is None else self._fingerprint(graph_module)
        checkpoints = BlockCheckpoints(self.checkpoint_dir, fingerprint, processes)
        floats = self._read_inputs(graph_module)
        quantized = self._read_inputs(graph_module) if config.inputs == BlockInputs.QUANTIZED else None
        samples = min(processes.gather(floats.samples))  # the same number in each process, so that all draw the same indices
        records: list[BlockRecord] = []
        total = sum(bool(segment.path) for segment in segments) * config.steps_of_a_block
        with StepBar(total, show=self.show_progress) as bar:
            for index, (segment, float_segment) in enumerate(zip(segments, reference, strict=True)):
                at_the_end = float_segment.path == AFTER_BLOCKS
                advance(floats, float_segment, config.batch_size, device, where_possible=at_the_end)
                if rests is not None and index == 0:
                    advance(floats, rests[0], config.batch_size, device, where_possible=True)  # the network's outputs
                if segment.path and _is_learnable(floats, float_segment):
                    store = floats if quantized is None else quantized
                    rest = None if rests is None or at_the_end else rests[index]
                    block = LearnableBlock(
                        graph_module,
                        segment,
                        _reader(store, segment.inputs, device),
                        _single(floats, float_segment.outputs[-1], device),
                        samples,
                        config,
                        None if rest is None else NetworkLoss(rest, float_segment, floats, config.output_weight, device),
                        processes,
                    )
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
                    learned = _learn_or_load(block, segment.path, checkpoints, generator, bar)
                    records.append(dataclasses.replace(learned, stage=self.stage))
                    bar.move_to(len(records) * config.steps_of_a_block)
                floats.keep_only(_read_later(reference, index) | _read_after(rests, index))
                if quantized is not None and not at_the_end:
                    advance(quantized, segment, config.batch_size, device)
                    quantized.keep_only(_read_later(segments, index))
        update_facts(graph_module, reconstruction=(*earlier, *records))
        return True

    def _fitting_batch(self, graph_module: fx.GraphModule) -> ReconstructionConfig:
        if facts_of(graph_module).dynamic_batch:
            return dataclasses.replace(self.config, batch_size=-(-self.config.batch_size // self.processes.size))
        return dataclasses.replace(self.config, batch_size=batch_size(facts_of(graph_module).example))

    def _fingerprint(self, graph_module: fx.GraphModule) -> str:
        # One batch at a time: all batches together may exceed memory.
        leaves = (leaf for batch in self.batches for leaf in pytree.tree_leaves(tuple(batch)) if isinstance(leaf, Tensor))
        run = f"{self.config} {self.seed} {self.processes.size} {graph_module.graph}"
        return digest(run, itertools.chain(graph_module.state_dict().values(), leaves))

    def _read_inputs(self, graph_module: fx.GraphModule) -> SampleStore:
        """Returns a store with this process's share of the network's inputs."""
        batches = self.processes.share(self.batches)
        sizes = [batch_size(batch, layout_of(graph_module)) for batch in batches]
        store = SampleStore(sum(sizes), self.storage)
        names = [node.name for node in graph_module.graph.nodes if node.op == "placeholder"]
        start = 0
        for batch, rows in zip(batches, sizes, strict=True):
            values = graph_module.graph.process_inputs(*flat_inputs(graph_module, *batch))
            for name, value in zip(names, values, strict=True):
                store.put(name, start, rows, value)
            start += rows
        return store


def _is_learnable(floats: SampleStore, segment: Segment) -> bool:
    """Returns whether to learn a segment: every block, and an end with layers and one finite target."""
    if not segment.is_end:
        return True
    has_layers = any(node.op == "call_module" for node in segment.graph_module.graph.nodes)
    has_target = segment.path != AFTER_BLOCKS or (len(segment.outputs) == 1 and floats.is_finite(segment.outputs[0]))
    return has_layers and has_target


def _learn_or_load(
    block: LearnableBlock, path: str, checkpoints: BlockCheckpoints, generator: torch.Generator, bar: StepBar
) -> BlockRecord:
    kept = checkpoints.load(path)
    if kept is not None:
        learned = record(BlockRecord, kept[1], path)
        block.load_state(kept[0], learned)
        return learned
    bar.label = path
    learned = block.learn(generator, bar.advance)
    checkpoints.save(path, block.state(), dataclasses.asdict(learned))
    return learned


def _read_later(segments: Sequence[Segment], index: int) -> set[str]:
    return {name for later in segments[index + 1 :] for name in later.inputs}


def _read_after(rests: Sequence[Segment] | None, index: int) -> set[str]:
    """Returns the values that the network's error needs for later blocks."""
    return {name for rest in (rests or ())[index + 1 :] for name in (*rest.inputs, *rest.outputs)}


def _reader(store: SampleStore, names: Sequence[str], device: torch.device) -> Callable[[Tensor | slice], tuple[Any, ...]]:
    return lambda samples: tuple(store.get(name, samples, device) for name in names)


def _single(store: SampleStore, name: str, device: torch.device) -> Callable[[Tensor | slice], Tensor]:
    return lambda samples: store.get(name, samples, device)  # type: ignore[no-any-return]
