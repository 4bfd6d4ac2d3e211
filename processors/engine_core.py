"""vLLM behind a handful of plain calls, all made from ONE thread.

Its OpenMP pool belongs to the thread that built it: stepped on another one it runs at half the speed. The engine's own
request ids, outputs and weight loading end here; nothing above knows vLLM's types.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import torch

from processors.engine_args import engine_args, prepare_environment
from processors.fits import check_fit
from processors.policy import Finish, Request
from schemas.settings import Settings


class Sampled(msgspec.Struct, frozen=True):
    """One finished request: its tokens, or for a scored one the log-probs of its prompt.

    `text` is there for a request with stop strings; of another the caller makes it.
    """

    id: str
    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish: Finish


class Core:
    """An in-process vLLM engine.

    Args:
        settings: engine and factory.seed.
        path: a policy directory or hub name: structure, tokenizer, first weights.
    """

    def __init__(self, settings: Settings, path: str) -> None:
        cuda = torch.cuda.is_available()
        eager = bool(settings.engine.args.get("enforce_eager", True))
        prepare_environment(settings.engine.threads, cuda=cuda, eager=eager)
        if not cuda:
            torch.set_num_threads(settings.engine.threads)  # of the calling thread, which is the one that steps
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        statistics = settings.metrics.serve
        args = engine_args(path, settings.engine, settings.factory.seed, cuda=cuda, statistics=statistics)
        self.max_len = int(args["max_model_len"])
        self.max_seqs = int(args["max_num_seqs"])
        self._engine: Any = LLMEngine.from_engine_args(EngineArgs(**args))
        self._vocabulary = int(self._engine.model_config.get_vocab_size())
        self._path = path
        self._external: dict[str, str] = {}
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.steps = 0
        self.occupied = 0.0
        """Sum over the steps of the share of max_seqs that was in use."""

    @property
    def running(self) -> int:
        """Requests in the engine."""
        return len(self._external)

    def add(self, id_: str, request: Request) -> None:
        """Start a request; the caller has clipped max_tokens to max_len.

        Raises:
            ValueError: the engine refuses it (a token id outside the vocabulary).
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._add(
            id_,
            request.prompt_ids,
            request.weights,
            SamplingParams(
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                stop=request.stop or None,
                include_stop_str_in_output=bool(request.stop),
                seed=request.seed,
                logprobs=0,
                detokenize=bool(request.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
            ),
        )
        if request.stop:
            # vLLM decodes each token a second time, to name it beside its log-prob: a tenth of a step of a small model.
            with contextlib.suppress(AttributeError, KeyError):  # another vLLM may keep it elsewhere
                self._engine.output_processor.request_states[self._external[id_]].logprobs_processor.tokenizer = None

    def add_score(self, id_: str, token_ids: list[int], sha: str) -> None:
        """Start a request for the log-probs of a text, 2 to max_len - 1 tokens; ValueError as in add."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._add(id_, token_ids, sha, params)

    def _add(self, id_: str, token_ids: list[int], sha: str, params: Any) -> None:  # noqa: ANN401 - vLLM's type
        if not token_ids or min(token_ids) < 0 or max(token_ids) >= self._vocabulary:
            raise ValueError(f"a prompt needs tokens, each from 0 to {self._vocabulary - 1}")  # vLLM would die of it
        # The salt keeps one version's cached keys and values from ever answering for another's.
        prompt = {"prompt_token_ids": token_ids, "cache_salt": sha}
        self._external[id_] = self._engine.add_request(id_, prompt, params)

    def step(self) -> Iterator[Sampled]:
        """One step of the engine; yields what finished in it."""
        self.steps += 1
        self.occupied += min(self.running / self.max_seqs, 1.0)
        for output in self._engine.step():
            if output.finished and self._external.pop(output.request_id, None) is not None:
                self.prompt_tokens += len(output.prompt_token_ids)
                self.cached_tokens += output.num_cached_tokens or 0
                yield _sampled(output)

    def abort(self, id_: str) -> None:
        """Forget a request whose caller gave up; nothing is yielded for it."""
        if (internal := self._external.pop(id_, None)) is not None:
            self._engine.abort_request([internal], internal=True)

    def load(self, path: str) -> None:
        """Put other weights into the model; no request may be in it.

        Raises:
            UnknownWeights: no weights there. Nothing was touched.
            ProbeFailed: they do not fit the model. Nothing was touched.
        """
        check_fit(path, self._path)
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": path})
        self._engine.apply_model(_pack_head)

    def shutdown(self) -> None:
        """Give the engine's memory back, whoever still holds this object."""
        self._engine.engine_core.shutdown()
        self._engine = None


def _pack_head(model: torch.nn.Module) -> None:
    """Pack a tied head anew.

    The CPU's linear layers keep a packed copy of their weight, and a reload renews only those of layers that are in
    the file, which a head that is tied to the embedding is not.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


def _sampled(output: Any) -> Sampled:  # noqa: ANN401 - vLLM's RequestOutput
    [answer] = output.outputs
    if output.prompt_logprobs is not None:
        logprobs = [
            entry[token].logprob
            for token, entry in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
        ]
        return Sampled(output.request_id, [], logprobs, "", "stop")
    ids = list(answer.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(ids, answer.logprobs or [], strict=True)]
    finish: Finish = answer.finish_reason if answer.finish_reason in {"stop", "length"} else "abort"
    return Sampled(output.request_id, ids, logprobs, answer.text, finish)
