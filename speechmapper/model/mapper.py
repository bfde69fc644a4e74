"""A trained run as one object: audio in, text out.

    mapper = SpeechMapper.from_pretrained("runs/stage2")       a run, a folder of `save_pretrained`, or a Hub id
    mapper.transcribe("talk.flac")                             "the dog ran home"
    mapper.transcribe([samples, "b.wav"], sampling_rate=8000)  one text each, in that order
    mapper.translate("talk.flac", to="de"); mapper.ask("talk.flac", "Who ran home?")
    mapper.run("asr", "talk.flac").segments                    [Segment(start=0.3, end=17.2, text="the dog ..."), ...]
    "".join(mapper.stream("asr", "talk.flac"))                 the same text, as it is written

    audio -> 16 kHz -> pieces -> encoder -> frames averaged -> projector -> vectors -> LLM answers, or nearest token

A run says what it was trained for: encoder, layer, averaging and LLM are taken from it. A stage 1 run reads
its vectors out by nearest token, without an LLM, unless one is named; a stage 2 run uses the LLM it was tuned
with. A recording of more than 25 s is cut in silence (speechmapper/segmentation.py). Transcripts and translations are
written piece by piece; for any other task the LLM is given all of the recording at once. Where there is no speech there
is no text, whatever the task.

One object is not meant for several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from sm_pipeline.audio import SAMPLE_RATE
from sm_pipeline.devices import choose_device
from sm_store.errors import ConfigError, InputError, ModelError
from speechmapper.answers import Answer, Segment, joined, space_between
from speechmapper.audio_features import Audio, Listening, load_listening
from speechmapper.config import NONE, LlmConfig
from speechmapper.llm import Output
from speechmapper.llm_loading import check_llm
from speechmapper.model.reading import Reader
from speechmapper.model.recordings import Heard, batches, hear, too_short
from speechmapper.model.saved import find_model, push_model, save_model, use_included
from speechmapper.projector import Projector
from speechmapper.prompting import Instruction
from speechmapper.readout.beam import BeamSearch
from speechmapper.readout.build import Readout, build_readout, require_search
from speechmapper.saved_projector import load_config, load_projector, model_name, recorded_model
from speechmapper.segmentation import Piece
from speechmapper.tasks import TASKS, Item, Task
from speechmapper.tasks.base import ANY_LANGUAGE

PIECEWISE = ("asr", "st")  # tasks whose answer about a recording is that about its pieces, one after another
WINDOW_SECONDS = 1200.0  # of recordings that are held in memory and batched together


class SpeechMapper:
    """Encoder, projector and readout of one run. Make one with `from_pretrained`.

    Attributes:
        folder: of the run or saved model.
        reader: from pieces of audio to text; a server batches the pieces of several requests by `reader.read`.
    """

    def __init__(
        self, projector: Projector, listening: Listening, readout: Readout, folder: Path | None = None
    ) -> None:
        self.projector, self.folder = projector, folder
        self.reader = Reader(projector, listening, readout)

    @classmethod
    def from_pretrained(
        cls,
        run: str | Path,
        llm: str | None = None,
        encoder: str | None = None,
        device: str = "auto",
        search: BeamSearch | None = None,
    ) -> SpeechMapper:
        """Load a run.

        Args:
            run: run folder of `sm-train` (or its projector/), a folder of `save_pretrained`, or a Hub id
                `owner/name[@revision]`.
            llm: folder, Hub id or preset; None: the LLM of a stage 2 run, quantised as there, the nearest token for
                stage 1.
            encoder: where the run's encoder is, if not where it was at extraction.
            device: auto, cpu or cuda[:N].
            search: how a CTC projector is read: `BeamSearch(16, read_hotwords(Path("names.txt")))`
                (speechmapper/readout); None: greedily.

        Raises:
            ModelError: no usable run, encoder or LLM. IdentityMismatch: another encoder than the run's.
            ConfigError: a run that cannot be read by beam search.
        """
        where, folder = choose_device(device), find_model(run)
        if search is not None:
            config = load_config(folder)
            require_search(search, config, _llm_of(config.trained_for, llm))
        projector = load_projector(folder).to(where)
        use_included(projector.config, folder)
        made = projector.config.trained_for
        if not made:
            raise ModelError(
                f"{run}: its config.json lacks trained_for, what it was made for; give the folder of a run"
            )
        name = _checked_llm(made, llm)
        listening = load_listening(made, encoder, device)
        how = _recorded_config(made) if _is_tuned(made) and llm is None else None
        readout = build_readout(projector, name, None, search=search, llm_config=how)
        return cls(projector, listening, readout, folder)

    def save_pretrained(self, folder: str | Path, include: Sequence[str] = ()) -> Path:
        """Write one folder that `from_pretrained` loads anywhere: projector, prompts, tokenizer, what made it, a card.

        Args:
            include: whose files are copied besides: `encoder`, `llm`; the others are loaded by their names.

        Raises:
            InputError: something is there already. ModelError: an encoder or LLM without safetensors.
        """
        return save_model(self._saved(), Path(folder), include)

    def push_to_hub(
        self, repository: str, include: Sequence[str] = (), private: bool = False, token: str | None = None
    ) -> str:
        """Upload the folder of `save_pretrained` to the Hub as `owner/name`; returns its address."""
        return push_model(self._saved(), repository, include, private, token)

    def _saved(self) -> Path:
        if self.folder is None:
            raise InputError("this model was not loaded from a folder; load it by from_pretrained to save it")
        return self.folder

    @overload
    def transcribe(self, audio: Audio, *, sampling_rate: int = ...) -> str: ...
    @overload
    def transcribe(self, audio: list[Any], *, sampling_rate: int = ...) -> list[str]: ...
    def transcribe(self, audio: Any, *, sampling_rate: int = SAMPLE_RATE) -> Any:
        """What is said: the text of one recording, or of each in a list of them.

        Args:
            audio: a file (wav, flac, ogg, mp3), one open in binary mode, samples (n,) as an array or tensor; or a list.
            sampling_rate: of samples, in Hz; a file says its own.

        Raises:
            InputError: audio that cannot be read, or that is too short for a single vector.
        """
        return _texts(self.run("asr", audio, sampling_rate=sampling_rate))

    @overload
    def translate(self, audio: Audio, to: str, *, sampling_rate: int = ...) -> str: ...
    @overload
    def translate(self, audio: list[Any], to: str, *, sampling_rate: int = ...) -> list[str]: ...
    def translate(self, audio: Any, to: str, *, sampling_rate: int = SAMPLE_RATE) -> Any:
        """What is said, in the language `to` (de, German, ...); else as `transcribe`.

        Raises:
            InputError: as `transcribe`. ConfigError: no LLM, or a language that there is no prompt for.
        """
        return _texts(self.run("st", audio, Item(language=to), sampling_rate=sampling_rate))

    @overload
    def ask(self, audio: Audio, question: str, *, sampling_rate: int = ...) -> str: ...
    @overload
    def ask(self, audio: list[Any], question: str, *, sampling_rate: int = ...) -> list[str]: ...
    def ask(self, audio: Any, question: str, *, sampling_rate: int = SAMPLE_RATE) -> Any:
        """The answer to a question about what is said; else as `transcribe`.

        Raises:
            InputError: as `transcribe`, or a recording that the LLM cannot take as a whole. ConfigError: no LLM.
        """
        return _texts(self.run("sqa", audio, Item(values={"question": question}), sampling_rate=sampling_rate))

    @overload
    def run(self, task: Task | str, audio: Audio, item: Item | None = ..., *, sampling_rate: int = ...) -> Answer: ...
    @overload
    def run(
        self, task: Task | str, audio: list[Any], item: Item | None = ..., *, sampling_rate: int = ...
    ) -> list[Answer]: ...
    def run(self, task: Task | str, audio: Any, item: Item | None = None, *, sampling_rate: int = SAMPLE_RATE) -> Any:
        """The answer to a task about one recording or each in a list, with its segments and their times.

        Args:
            task: asr, st, sqa, or a task of your own (`speechmapper.tasks.read_task`), in the wordings that the run
                was trained with.
            item: what the task asks: the language of a translation, the question; None: nothing in particular.

        Raises:
            InputError: as `transcribe`. ConfigError: a task that needs an LLM, or no wording of it for the item.
        """
        is_many = isinstance(audio, list) and not (audio and isinstance(audio[0], int | float))
        found = []
        for answer in self.answers(task, audio if is_many else [audio], item, sampling_rate=sampling_rate):
            if isinstance(answer, InputError):
                raise answer
            found.append(answer)
        return found if is_many else found[0]

    def answers(
        self,
        task: Task | str,
        audio: Iterable[Audio],
        item: Item | None = None,
        *,
        sampling_rate: int = SAMPLE_RATE,
        advance: Callable[[float], object] | None = None,
    ) -> Iterator[Answer | InputError]:
        """As `run`, for many recordings: each answer in turn, or what is wrong with the recording.

        Up to 20 minutes of recordings are read at a time, and their pieces batched by length.

        Args:
            advance: is told the seconds of audio that were done since the last call.

        Raises:
            ConfigError: as `run`, before anything is read.
        """
        task, item = self.task(task), item or Item()
        task.instruction(item)
        return self._answers(task, audio, item, sampling_rate, advance or (lambda _: None))

    def stream(
        self, task: Task | str, audio: Audio, item: Item | None = None, *, sampling_rate: int = SAMPLE_RATE
    ) -> Iterator[str]:
        """The answer about one recording as the LLM writes it: pieces of text that joined are that of `run`.

        Raises:
            InputError, ConfigError: as `run`, before the first piece.
        """
        task = self.task(task)
        instruction = task.instruction(item or Item())
        return self._streamed(task, hear(audio, sampling_rate), instruction)

    def task(self, task: Task | str) -> Task:
        """A task in the wordings that the run was trained with.

        Raises:
            ConfigError: an unknown name, or a task that needs an LLM where there is none.
        """
        if isinstance(task, str):
            if task not in TASKS:
                raise ConfigError(f"task {task!r}: no such task; use {', '.join(TASKS)}")
            task = TASKS[task]
        self.reader.readout.require_task(task)
        return task.as_trained(self.projector.config.trained_for)

    def _answers(
        self,
        task: Task,
        audio: Iterable[Audio],
        item: Item,
        sampling_rate: int,
        advance: Callable[[float], object],
    ) -> Iterator[Answer | InputError]:
        window: list[Heard | InputError] = []
        seconds = 0.0
        for recording in audio:
            try:
                heard = hear(recording, sampling_rate)
            except InputError as error:
                window.append(error)
                continue
            window.append(heard)
            seconds += heard.seconds
            advance(heard.seconds - sum(piece.seconds for piece in heard.spoken))
            if seconds >= WINDOW_SECONDS:
                yield from self._answered(task, window, item, advance)
                window, seconds = [], 0.0
        yield from self._answered(task, window, item, advance)

    def _answered(
        self, task: Task, window: list[Heard | InputError], item: Item, advance: Callable[[float], object]
    ) -> Iterator[Answer | InputError]:
        """The answer about each recording of a window, in order; the pieces of all are batched by length."""
        instruction = task.instruction(item)
        language = item.language if item.language != ANY_LANGUAGE else None
        alone = [
            (number, piece)
            for number, heard in enumerate(window)
            if isinstance(heard, Heard) and (task.name in PIECEWISE or len(heard.spoken) == 1)
            for piece in heard.spoken
        ]
        written = self._read(task, [piece for _, piece in alone], instruction, advance)
        for number, heard in enumerate(window):
            if isinstance(heard, InputError):
                yield heard
                continue
            found = [each for (place, _), each in zip(alone, written, strict=True) if place == number]
            try:
                if heard.spoken and not found:
                    yield self._whole(task, heard, instruction, language, advance)
                else:
                    yield _answer(heard, found, language)
            except InputError as error:
                yield error

    def _read(
        self, task: Task, spoken: list[Piece], instruction: Instruction, advance: Callable[[float], object]
    ) -> list[Output | None]:
        """What is written about each of some pieces, in their order."""
        written: list[Output | None] = [None] * len(spoken)
        for batch in batches([piece.seconds for piece in spoken]):
            chosen = [spoken[number] for number in batch]
            found = self.reader.read(task, [piece.samples for piece in chosen], [instruction] * len(chosen))
            for number, each in zip(batch, found, strict=True):
                written[number] = each
            advance(sum(piece.seconds for piece in chosen))
        return written

    def _whole(
        self,
        task: Task,
        heard: Heard,
        instruction: Instruction,
        language: str | None,
        advance: Callable[[float], object],
    ) -> Answer:
        """The answer about several pieces that the LLM is given as one."""
        written = self.reader.read_whole(task, [piece.samples for piece in heard.spoken], instruction, heard.name)
        advance(sum(piece.seconds for piece in heard.spoken))
        start, end = heard.spoken[0].spoken[0], heard.spoken[-1].spoken[1]
        segment = Segment(start, end, written.text, bool(written.stopped_by_length))
        return Answer(written.text, [segment], heard.seconds, language)

    def _streamed(self, task: Task, heard: Heard, instruction: Instruction) -> Iterator[str]:
        waves = [piece.samples for piece in heard.spoken]
        groups = [[wave] for wave in waves] if task.name in PIECEWISE else [waves] if waves else []
        last = ""
        for group in groups:
            begins = bool(last)
            for delta in filter(None, self.reader.stream(task, group, instruction, heard.name)):
                yield f"{space_between(last, delta)}{delta}" if begins else delta
                last, begins = delta[-1], False


def _answer(heard: Heard, written: list[Output | None], language: str | None) -> Answer:
    """The answer about a recording whose pieces were read one by one.

    Raises:
        InputError: a piece is too short for a vector.
    """
    segments = []
    for piece, each in zip(heard.spoken, written, strict=True):
        if each is None:
            raise too_short(heard.name)
        segments.append(Segment(*piece.spoken, each.text, bool(each.stopped_by_length), piece.cut_in_speech))
    return Answer(joined(segment.text for segment in segments), segments, heard.seconds, language)


def _texts(answers: Answer | list[Answer]) -> str | list[str]:
    return [answer.text for answer in answers] if isinstance(answers, list) else answers.text


def _llm_of(made: Mapping[str, Any], llm: str | None) -> str | None:
    """The LLM that is named, else the one that a stage 2 run was tuned with."""
    return model_name(made["llm"]) if llm is None and _is_tuned(made) else llm


def _checked_llm(made: Mapping[str, Any], llm: str | None) -> str | None:
    """The LLM as in `_llm_of`, which is there and can be run.

    Raises:
        ModelError: it is not; of one that the run has recorded, says so.
    """
    name = _llm_of(made, llm)
    if llm is not None:
        check_llm(llm)
    elif name is not None:
        with recorded_model(name, "the LLM that this run was tuned with", "name where it is now with --llm"):
            check_llm(name, _recorded_config(made))
    return name


def _recorded_config(made: Mapping[str, Any]) -> LlmConfig:
    """How a run loaded its LLM."""
    return LlmConfig(quantize=made["llm"].get("quantize", NONE))


def _is_tuned(made: Mapping[str, Any]) -> bool:
    return made.get("stage") == "stage2"
