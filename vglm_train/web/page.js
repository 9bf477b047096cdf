// Adds pictures to the conversation: chosen, from the camera, dropped or pasted. Everything else is Gradio's.
(() => {
  const strip = () => document.getElementById("strip");
  const say = (text, wrong) => {
    const said = document.querySelector("#said p");
    said.className = wrong ? "wrong" : "";
    said.textContent = text;
  };
  const refresh = () => document.getElementById("refresh").click();

  const send = async (files) => {
    const problems = [];
    for (const file of files) {
      say(strip().dataset.reading, false);
      try {
        const answer = await fetch("pictures", { method: "POST", headers: { "X-Page": strip().dataset.page }, body: file });
        if (!answer.ok) problems.push(`${file.name}: ${await answer.text()}`);
      } catch {
        problems.push(strip().dataset.failed);
      }
    }
    say("", false);
    if (files.length > problems.length) refresh();
    if (problems.length) say(problems.join(" · "), true);
  };

  // Kept and in the document: a browser opens no dialogue for an input that is neither.
  const picker = (camera) => {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", accept: camera ? "image/*" : "image/*,application/dicom,.dcm", multiple: !camera, hidden: true });
    if (camera) input.capture = "environment";
    input.addEventListener("change", async () => {
      const files = [...input.files];
      input.value = ""; // so that the same file can be chosen again
      await send(files);
    });
    return input;
  };
  const pickers = { files: picker(false), camera: picker(true) };

  document.addEventListener("click", async (event) => {
    if (event.target.closest("button")) say("", false);
    const pick = event.target.closest("[data-pick]");
    if (pick) {
      const input = pickers[pick.dataset.pick];
      if (!input.isConnected) document.body.append(input);
      input.click();
    }
    const remove = event.target.closest("[data-remove]");
    if (remove) {
      await fetch(`pictures/${remove.dataset.remove}`, { method: "DELETE", headers: { "X-Page": strip().dataset.page } });
      refresh();
      document.querySelector("[data-pick]").focus();
    }
  });

  const pictures = (transfer) => [...(transfer?.files || [])].filter((file) => file.type.startsWith("image/"));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    send(pictures(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const files = pictures(event.clipboardData);
    if (files.length) event.preventDefault();
    if (files.length) send(files);
  });

  // Enter that chooses a word of an input method (pinyin) is not for sending.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && strip()) say("", false);
    if (event.key === "Enter" && (event.isComposing || event.keyCode === 229)) event.stopPropagation();
  }, true);

  // The page's language for readers of the screen, and the newest words in view.
  new MutationObserver(() => {
    const language = document.querySelector("[data-language]")?.dataset.language;
    if (language && document.documentElement.lang !== language) document.documentElement.lang = language;
    const talk = document.getElementById("conversation");
    if (!talk) return;
    if (!talk.hasAttribute("role")) {
      talk.setAttribute("role", "log");
      talk.setAttribute("tabindex", "0");
      talk.addEventListener("scroll", () => {
        talk.away = talk.scrollHeight - talk.scrollTop - talk.clientHeight > 80;
      });
    }
    if (!talk.away) talk.scrollTop = talk.scrollHeight;
  }).observe(document, { subtree: true, childList: true });
})();
