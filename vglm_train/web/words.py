"""What the page says, in English and in Chinese."""

from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]


@dataclass(frozen=True, slots=True)
class Words:
    """The texts of one language."""

    title: str
    intro: str
    question: str
    ask_here: str
    send: str
    stop: str
    again: str
    clear: str
    settings: str
    max_new: str
    temperature: str
    top_p: str
    top_k: str
    repetition_penalty: str
    seed: str
    seed_info: str
    temperature_info: str
    other_language: str
    conversation: str
    you: str
    model: str
    add: str
    camera: str
    drop: str
    picture: str
    remove: str
    reading: str
    failed: str
    writing: str
    waiting: str
    stopped: str
    cut: str
    deadline: str
    dropped: str
    cleared: str
    gone: str
    full: str
    nothing: str
    nothing_again: str
    too_many: str
    unusable: str
    problem: str
    large: str
    no_picture: str
    long: str
    closed: str
    broken: str
    warning: str
    verdict: str
    no_verdict: str


ENGLISH = Words(
    title="Talk about pictures",
    intro="Add one or several pictures and ask about them.",
    question="Your question",
    ask_here="Ask about the pictures. Enter sends, Shift+Enter begins a new line.",
    send="Send",
    stop="Stop",
    again="Answer again",
    clear="Clear",
    settings="Settings",
    max_new="Tokens of an answer at most",
    temperature="Temperature",
    top_p="Top p",
    top_k="Top k (0: all)",
    repetition_penalty="Repetition penalty",
    seed="Seed",
    seed_info="The same seed gives the same answer. “Answer again” adds 1.",
    temperature_info="0: always the likeliest token",
    other_language="中文",
    conversation="Conversation",
    you="You",
    model="Model",
    add="Add pictures",
    camera="Camera",
    drop="or drop or paste them here",
    picture="Picture {}",
    remove="Remove picture {}",
    reading="Reading the picture …",
    failed="The picture did not reach the server. Is it still running?",
    writing="The last question is still being answered. Wait for it, or stop it.",
    waiting="Waiting for the model …",
    stopped="stopped",
    cut="cut: the answer has as many tokens as it may",
    deadline="cut: the answer took too long",
    dropped="no room any more for the oldest turns; the model no longer sees: {}",
    cleared="A new conversation. The server has forgotten the old one and its pictures.",
    gone="This conversation had ended, since nobody used it for a long time. A new one has begun: please add the "
    "pictures again.",
    full="Many people are asking right now. Please try again in about {} s; your question is still here.",
    nothing="Add a picture or write a question first.",
    nothing_again="There is no answer yet.",
    too_many="A conversation may have {} pictures. Clear it to begin a new one.",
    unusable="This picture cannot be used: {}",
    problem="This cannot be answered: {}",
    large="{}",  # what the server says in English
    no_picture="{}",
    long="{}",
    closed="The server is being shut down. Try again when it runs again; your question is still here.",
    broken="Something went wrong on the server, which says more in its terminal. Your question is still here.",
    warning="This is no medical device. Its answers may be wrong in any part and must not be used for diagnosis or "
    "treatment.",
    verdict="How well it did in its evaluation",
    no_verdict="No evaluation of it is linked here.",
)
CHINESE = Words(
    title="看图对话",
    intro="添加一张或多张图片，然后就图片提问。",
    question="您的问题",
    ask_here="请就图片提问。按 Enter 发送，按 Shift+Enter 换行。",
    send="发送",
    stop="停止",
    again="重新回答",
    clear="清除",
    settings="参数",
    max_new="回答的最大 token 数",
    temperature="温度 temperature",
    top_p="Top p",
    top_k="Top k（0：不限）",
    repetition_penalty="重复惩罚 repetition penalty",
    seed="随机种子",
    seed_info="种子相同，回答相同。“重新回答”会将其加 1。",
    temperature_info="0：总是取概率最大的 token",
    other_language="English",
    conversation="对话",
    you="用户",
    model="模型",
    add="添加图片",
    camera="拍照",
    drop="也可以拖放或粘贴",
    picture="图片 {}",
    remove="移除图片 {}",
    reading="正在读取图片……",
    failed="图片未能送达服务器。服务器还在运行吗？",
    writing="上一个问题还在回答中，请等待或先停止。",
    waiting="等待模型……",
    stopped="已停止",
    cut="回答已达长度上限，在此截断",
    deadline="回答用时过长，在此截断",
    dropped="最早的对话已放不下，模型不再看到其中 {} 轮",
    cleared="已重新开始对话。服务器已忘记之前的对话和图片。",
    gone="由于长时间未使用，之前的对话已结束。现在是新的对话：请重新添加图片。",
    full="现在提问的人较多，请约 {} 秒后再试；您的问题仍保留在此。",
    nothing="请先添加图片或输入问题。",
    nothing_again="还没有回答。",
    too_many="一次对话最多 {} 张图片。请清除后重新开始。",
    unusable="这张图片无法使用：{}",
    problem="无法回答：{}",
    large="图片过大，请缩小后再添加。（{}）",
    no_picture="它不是完整的图片，或者格式不受支持，请另存为 PNG 或 JPEG。（{}）",
    long="问题连同图片过长，请缩短问题、减少图片，或清除后重新开始。（{}）",
    closed="服务器正在关闭，请在其恢复运行后再试；您的问题仍保留在此。",
    broken="服务器出错了，详情见其终端。您的问题仍保留在此。",
    warning="本程序不是医疗器械。其回答的任何部分都可能有误，不得用于诊断或治疗。",
    verdict="查看它的评测结果",
    no_verdict="此处没有链接它的评测结果。",
)
WORDS: dict[str, Words] = {"en": ENGLISH, "zh": CHINESE}


def language_of(accepted: str) -> Language:
    """The page's language from a browser's Accept-Language header: Chinese where it is named before English."""
    named = [part.split(";")[0].strip().lower()[:2] for part in accepted.split(",")]
    return "zh" if next((name for name in named if name in WORDS), "en") == "zh" else "en"
