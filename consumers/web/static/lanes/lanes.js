// A lane for each member of the session that is shown.

import { Lane } from "./lane.js";

export class Lanes {
  #root;
  #handlers;
  #lanes = [];
  #record = null;

  constructor(root, handlers) {
    [this.#root, this.#handlers] = [root, handlers];
  }

  // The members of another session; what was shown before is gone.
  begin(record) {
    for (const lane of this.#lanes) lane.close();
    this.#record = record;
    const { models } = record.columns;
    this.#lanes = models.map(
      (model, index) => new Lane(model, index, record.answers[index], record.thoughts[index], this.#handlers),
    );
    this.#root.replaceChildren(...this.#lanes.map((lane) => lane.element));
  }

  // All as it was at the end of the frame's window.
  draw(frame, withNumbers) {
    const runs = (member) => member.state !== "finished" && member.state !== "dropped";
    frame.members.forEach((member, index) => {
      this.#lanes[index].draw(member, this.#record.lengthsAt(index, frame.window_index), withNumbers);
      if (withNumbers) this.#lanes[index].showRunning(frame.window_index === this.#record.columns.last && runs(member));
    });
  }

  // What was released up to now, before the first frame came.
  drawTexts() {
    this.#lanes.forEach((lane, index) => {
      lane.answerView.draw(this.#record.answers[index].text.length);
    });
  }

  // In each answer the place where they parted, a byte.
  showParting(byte) {
    for (const lane of this.#lanes) lane.answerView.showFork(byte);
  }

  reveal(byte) {
    this.#lanes.forEach((lane, index) => lane.answerView.reveal(this.#record.answers[index].offsetAt(byte)));
  }

  // Tokens of these bytes became known.
  refresh(index, range) {
    this.#lanes[index].answerView.refresh(range);
  }
}
