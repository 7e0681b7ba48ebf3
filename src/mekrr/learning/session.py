"""What the three drivers share: labels made or waited for, the potential after them, the state of the run."""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mekrr.calculators import Calculator
from mekrr.data.reading.electrons import electrons
from mekrr.errors import DataError, MekrrError
from mekrr.learning import events
from mekrr.learning.events import Event
from mekrr.learning.journal import Journal
from mekrr.learning.labeller import Answer, Labeller, bare
from mekrr.learning.labels import Ask, Label, frame_of, stiffness
from mekrr.learning.learner import Learner, correction
from mekrr.learning.surface import BackboneCalculator, ExactAt

MOST_FAILURES = 3  # in a row
GROWN = 2.0  # a remark whose numbers are so many times those of an earlier one is said again
NUMBER = r"\d+(?:\.\d+)?"
SAME = 1e-6  # Angstrom: positions that are one structure


class EndedError(MekrrError):
    """A run ends before its goal; the message says why."""


class LabelsWantedError(MekrrError):
    """A run that takes its labels from outside waits for some."""


@dataclass(frozen=True)
class Outcome:
    """What a driver returns when it has reached its goal.

    Attributes:
        text: a sentence.
        structures: the result.
        numbers: of the last event.
    """

    text: str
    structures: tuple[Atoms, ...]
    numbers: dict[str, Any]


@dataclass
class Session:
    """A run at work.

    Attributes:
        journal: on disk.
        learner: labels to potential.
        labeller: the calculator; None when labels come from outside.
        most: labels.
        stress: whether labels need one.
    """

    journal: Journal
    learner: Learner
    labeller: Labeller | None
    most: int
    stress: bool

    @property
    def labels(self) -> list[Label]:
        """In the order in which they came."""
        return self.journal.labels

    def label_of(self, number: int) -> Label | None:
        """The label of an ask; None when it has none."""
        return next((label for label in self.labels if label.number == number), None)

    def is_labelled(self, atoms: Atoms) -> bool:
        """Whether these positions have a label."""
        return any(np.allclose(label.frame.positions, atoms.positions, rtol=0, atol=SAME) for label in self.labels)

    def failed(self, number: int) -> bool:
        """Whether an ask has failed since the run last ended: the calculator may work again when it goes on."""
        ended = (i for i, line in enumerate(self.journal.lines) if line["kind"] == events.STOPPED)
        lines = self.journal.lines[max(ended, default=0) :]
        return any(line["kind"] == events.FAILED and line["number"] == number for line in lines)

    def say(self, kind: str, text: str, **numbers: Any) -> Event:
        """An event, in the journal before anybody hears of it."""
        event = Event(kind, text, numbers)
        self.journal.write(event)
        return event

    def ask(self, asks: Sequence[Ask]) -> Iterator[Event]:
        """Have structures labelled; what has a label or has failed is not asked for again.

        Raises:
            EndedError: when there would be more labels than allowed.
            LabelsWantedError: when they come from outside.
        """
        open_ = [a for a in asks if self.label_of(a.number) is None and not self.failed(a.number)]
        for ask in open_:
            if (n := len(self.labels)) >= self.most:
                labels = f"{n} label{'s' * (n != 1)}"
                raise EndedError(f"{labels}, as many as allowed; go on with --resume and a larger --labels")
            if self.labeller is None:
                raise LabelsWantedError(f"{len(open_)} structures wait for labels")
            yield from self._one(ask)

    def _one(self, ask: Ask) -> Iterator[Event]:
        assert self.labeller is not None
        yield self.say(
            events.ASKED,
            f"label {len(self.labels) + 1}: {ask.why}",
            number=ask.number,
            why=ask.why,
            n_labels=len(self.labels),
        )
        answer = self.labeller(ask.as_dict() | {"atoms": bare(ask.atoms), "moving": ask.atoms, "stress": self.stress})
        yield self.take(ask, answer)
        self.labeller.forget()

    def take(self, ask: Ask, answer: Answer) -> Event:
        """An answer as a label, or as a failure with its sentence."""
        error = answer.error
        if answer.results is not None:
            try:
                frame = frame_of(ask, answer.results, answer.seconds)
            except DataError as refused:
                error = str(refused)
            else:
                return self._labelled(self.journal.append_label(frame))
        return self.say(
            events.FAILED, f"no label: {error}", number=ask.number, why=ask.why, error=error, seconds=answer.seconds
        )

    def _labelled(self, label: Label) -> Event:
        error, deviation = label.force_error, label.force_deviation
        text = f"labelled {label.frame.info['why']} in {label.seconds:.1f} s"
        if error is not None:
            text += f"; forces had been predicted to {1000 * error:.0f} meV/Å"
        if deviation is not None:
            text += f" (expected {1000 * deviation:.0f})"
        before = label.frame.info.get("before_energy")
        return self.say(
            events.LABELLED,
            text,
            number=label.number,
            why=label.frame.info["why"],
            n_labels=len(self.labels),
            energy_ev=label.energy,
            predicted_energy_ev=before,
            force_error_mev_per_angstrom=None if error is None else 1000 * error,
            force_deviation_mev_per_angstrom=None if deviation is None else 1000 * deviation,
            seconds=label.seconds,
        )

    def take_left_behind(self) -> Iterator[Event]:
        """The answer that a killed run had asked for."""
        if self.labeller is None:
            return
        if self.labeller.is_busy():
            yield self.say(events.WAITING, "the calculation that the last run asked for is going on: waiting for it")
        found = self.labeller.left_behind()
        if found is None:
            return
        asked, answer = found
        ask = Ask(asked["number"], asked["moving"], asked["why"], asked["before"], asked["info"])
        if self.label_of(ask.number) is None and not self.failed(ask.number):
            yield self.take(ask, answer)
        self.labeller.forget()

    def learn(self) -> Iterator[Event]:
        """Bring the potential to the labels that are there; the model file follows the journal."""
        started = time.perf_counter()
        done = self.learner.learn(self.labels)
        if done is None:
            return
        assert self.learner.potential is not None
        forces, times = done["loo_forces_mev_per_angstrom"], correction(self.labels, own=True)
        yield self.say(
            events.MODEL,
            f"potential {done['how']} on {done['n_labels']} labels ({done['why']}); leave-one-out: "
            f"{done['loo_energy_mev_per_atom']:.2g} meV/atom, {forces:.0f} meV/Å; deviations times {times:.2g}",
            **done,
            deviations_times=times,
            seconds=time.perf_counter() - started,
        )
        self.learner.save(self.journal.path_of_model, times)
        for text in self.learner.warned:
            if not self.remarked(text):
                yield self.say(events.REMARK, text)

    def remarked(self, text: str) -> bool:
        """Whether the same was said before, of whatever structure: every fit looks at all labels again."""
        said = [line["text"] for line in self.journal.lines if line["kind"] == events.REMARK]
        return any(is_repeated(text, before) for before in said)

    def surface(self) -> Any:
        """What atoms move on now: the potential, or the network while labels are too few."""
        potential = self.learner.potential
        return BackboneCalculator(self.learner.backbone) if potential is None else Calculator(potential)

    def predicted(self, structures: Sequence[Atoms], like: Any = None) -> list[dict[str, Any]]:
        """Energies, forces and corrected deviations as they are predicted now; deviations need a potential.

        The worst deviation of a force is that of the atom for which it is largest beside the forces on its element
        (`stiffness`), by which `worst_std` is divided.

        Args:
            structures: without labels.
            like: a surface whose energy and forces are taken instead of the potential's.
        """
        potential = self.learner.potential
        if potential is None:
            surface = like or self.surface()
            exact = isinstance(surface, ExactAt)  # the network alone has an energy of its own zero
            return [
                {
                    "energy": float(surface.get_property("energy", a)) if exact else None,
                    "forces": np.array(surface.get_property("forces", a)),
                }
                for a in structures
            ]
        scale, hard = correction(self.labels), stiffness(self.labels)
        found = []
        for atoms, p in zip(structures, potential.predict(structures, True, True, force_uncertainty=True), strict=True):
            assert p.forces_std is not None
            energy, forces, own = p.energy, p.forces, {}
            if like is not None:
                own = {"own_forces": p.forces}
                energy, forces = float(like.get_property("energy", atoms)), np.array(like.get_property("forces", atoms))
            per_atom = scale * np.sqrt((p.forces_std**2).mean(axis=1))
            relative = per_atom / np.array([hard.get(int(z), 1.0) for z in atoms.numbers])
            worst = int(relative.argmax())
            found.append(
                {
                    "energy": energy,
                    "forces": forces,
                    "energy_std": None if p.energy_std is None else scale * p.energy_std,
                    "force_std": scale * float(np.sqrt((p.forces_std**2).mean())),
                    "correction": scale,
                    **own,
                    "worst_std": float(relative[worst]),
                    "worst_atom": worst,
                    "worst_atom_std": float(per_atom[worst]),
                }
            )
        return found


def is_repeated(text: str, before: str) -> bool:
    """Whether a remark says what an earlier one said, of another structure or with numbers less than twice as large."""
    (words, numbers), (said, known) = _apart(text), _apart(before)
    return words == said and all(a < GROWN * b or a == b for a, b in zip(numbers, known, strict=True))


def _apart(text: str) -> tuple[str, list[float]]:
    """Words and numbers of a remark, without which structure leads it and how many more are like it."""
    text = re.sub(r", index \d+( \(\w+\))?| \([^()]*more like it[^()]*\)", "", text)
    return re.sub(NUMBER, "#", text), [float(number) for number in re.findall(NUMBER, text)]


def labelled_atoms(label: Label, like: Atoms) -> Atoms:
    """A labelled structure with the constraints of another, and its DFT results."""
    atoms = label.frame.copy()
    atoms.set_constraint(like.constraints)
    for name in ("before_forces", "before_own_forces", "momenta"):
        atoms.arrays.pop(name, None)
    atoms.info = electrons(label.frame) | {"label": label.number}
    atoms.calc = SinglePointCalculator(atoms, **label.results)
    return atoms
