// Adds pictures to the conversation: chosen, from the camera, dropped or pasted. Everything else is Gradio's.
(() => {
  const strip = () => document.getElementById("strip");
  const say = (text, wrong) => {
    const told = document.querySelector("#told p") || document.createElement("p");
    told.className = wrong ? "wrong" : "told";
    told.setAttribute("role", wrong ? "alert" : "status");
    told.textContent = text;
    if (!told.isConnected) document.getElementById("told").append(told);
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
    document.querySelector("#told p")?.remove();
    if (files.length > problems.length) refresh();
    if (problems.length) say(problems.join(" · "), true);
  };

  const choose = (camera) => {
    const input = document.createElement("input");
    input.type = "file";
    input.accept = "image/*";
    input.multiple = !camera;
    if (camera) input.capture = "environment";
    input.addEventListener("change", () => send([...input.files]));
    input.click();
  };

  document.addEventListener("click", async (event) => {
    const pick = event.target.closest("[data-pick]");
    if (pick) choose(pick.dataset.pick === "camera");
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
