// An extension of JupyterLab, without a build: scrolls the notebooks of a lesson together, and leaves a
// notebook that was only looked at as it was. The last lines are what a build tool would otherwise write.
(() => {
  const TOGGLE = 'three-ways:scroll-together';
  const LABEL = "Scroll a Lesson's Notebooks Together";
  // A panel of 480 to 640 pixels holds a line of code of 58 to 83 characters then.
  const STYLE = `
    .jp-NotebookPanel { container-type: inline-size; }
    @container (max-width: 800px) {
      .jp-Notebook {
        --jp-code-font-size: 11px; --jp-cell-prompt-width: 30px; --jp-notebook-padding: 4px;
        --jp-cell-padding: 3px; --jp-cell-collapser-width: 4px;
      }
      .jp-Notebook :is(.jp-InputPrompt, .jp-OutputPrompt) { font-size: 9px; }
    }`;

  const lesson = panel => panel.context.path.match(/(\d\d_\w+)_(?:numpy|keras|pytorch)\.ipynb$/)?.[1];
  const box = panel => panel.content.node.querySelector('.jp-WindowedPanel-outer');
  const range = panel => box(panel).scrollHeight - box(panel).clientHeight;

  // Map the id of each cell that takes up room to its distance from the start of the page.
  function tops(panel) {
    const start = box(panel).getBoundingClientRect().top - box(panel).scrollTop;
    const shown = panel.content.widgets.filter(cell => cell.node.getClientRects().length);
    return new Map(shown.map(cell => [cell.model.id, cell.node.getBoundingClientRect().top - start]));
  }

  // Scroll a panel to where the leader is: in proportion between the nearest common cells above and below.
  function align(panel, leader) {
    const here = tops(panel), y = box(leader).scrollTop;
    let above = [0, 0], below = [range(leader), range(panel)];
    for (const [id, top] of tops(leader)) {
      if (!here.has(id)) continue;
      if (top > y + 1) { below = [top, here.get(id)]; break; }
      above = [top, here.get(id)];
    }
    const way = below[0] > above[0] ? (y - above[0]) / (below[0] - above[0]) : 0;
    box(panel).scrollTop = above[1] + way * (below[1] - above[1]);
  }

  function scrollTogether(app, tracker, palette) {
    let on = true, moved = null, waiting = false;
    const leader = () => (moved && !moved.isDisposed ? moved : tracker.currentWidget);
    const follow = from => tracker.forEach(panel => {
      if (panel !== from && panel.isVisible && lesson(panel) === lesson(from)) align(panel, from);
    });

    // Who leads is the panel that was touched last; the others' own scroll events must not answer it.
    // A click elsewhere, such as one in the table of contents, is about the current notebook.
    for (const kind of ['wheel', 'touchstart', 'pointerdown', 'keydown']) {
      const touched = event => { moved = tracker.find(panel => panel.node.contains(event.target)) ?? null; };
      document.addEventListener(kind, touched, { capture: true, passive: true });
    }
    const scrolled = event => {
      const from = leader();
      if (!on || waiting || !from || !lesson(from) || event.target !== box(from)) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; if (!from.isDisposed) follow(from); });
    };
    document.addEventListener('scroll', scrolled, { capture: true, passive: true });

    const toggle = () => {
      on = !on;
      if (on && leader() && lesson(leader())) follow(leader());
      const message = on ? 'The notebooks scroll together.' : 'Each notebook scrolls alone.';
      app.commands.execute('apputils:notify', { message, type: 'info', options: { autoClose: 2000 } });
    };
    app.commands.addCommand(TOGGLE, { label: LABEL, isToggled: () => on, execute: toggle });
    app.commands.addKeyBinding({ command: TOGGLE, keys: ['Alt Shift S'], selector: 'body' });
    palette?.addItem({ command: TOGGLE, category: 'Notebook Operations' });
  }

  // JupyterLab writes the kernel's version and its name into a notebook that is opened, and calls that a
  // change, which autosave saves. It isn't one, until something else than these differs from the file.
  function leaveUntouched(panel) {
    const { model } = panel.context;
    const contents = () => {
      const { cells, metadata: { kernelspec, language_info, ...others } } = model.toJSON();
      return JSON.stringify([cells, kernelspec?.name, others]);
    };
    const asRead = contents();
    const check = () => {
      if (!model.dirty) return;
      if (contents() === asRead) model.dirty = false;
      else model.stateChanged.disconnect(check);
    };
    model.stateChanged.connect(check);
    check();
  }

  let shared;
  const load = async name => (await Object.values(shared[name])[0].get())();
  const get = async () => {
    const { ICommandPalette } = await load('@jupyterlab/apputils');
    const { INotebookTracker } = await load('@jupyterlab/notebook');
    const activate = (app, tracker, palette) => {
      document.head.append(Object.assign(document.createElement('style'), { textContent: STYLE }));
      tracker.widgetAdded.connect((_, panel) => panel.context.ready.then(() => leaveUntouched(panel)));
      scrollTogether(app, tracker, palette);
    };
    const tokens = { requires: [INotebookTracker], optional: [ICommandPalette] };
    const plugin = { id: 'three-ways:plugin', autoStart: true, ...tokens, activate };
    return () => ({ __esModule: true, default: plugin });
  };
  (window._JUPYTERLAB ??= {})['three-ways'] = { init: scope => { shared = scope; }, get };
})();
