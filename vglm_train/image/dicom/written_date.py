"""A date of DICOM, YYYYMMDD, in the forms that people write, as regular expressions for a text in small letters."""

from collections.abc import Iterator

MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
          "december")  # fmt: skip
_DIGITS = "〇一二三四五六七八九"


def date_forms(date: str) -> Iterator[str]:
    """With a year, and with the month's name or 月 without one too; in a text without spaces beside Chinese
    characters. None for what is no date."""
    if len(date) != 8 or not date.isdecimal() or not 1 <= int(date[4:6]) <= 12:
        return
    year, month, day = date[:4], int(date[4:6]), int(date[6:])
    m, d, short = f"0?{month}", f"0?{day}", f"(?:{year}|{year[2:]})"
    before, after = r"(?<![a-z0-9])", r"(?![a-z0-9])"
    yield f"{before}{date}{after}"
    yield rf"{before}{year} ?[-/.] ?{m} ?[-/.] ?{d}{after}"
    yield from (rf"{before}{a} ?[-/.] ?{b} ?[-/.] ?{short}{after}" for a, b in ((d, m), (m, d)))
    name = MONTHS[month - 1]
    named = f"(?:{name}|{name[:4]}|{name[:3]})"  # sept
    its_year = rf"(?:[ ,.\-/]*{year}{after}|(?![ ,.\-/]*(?:19|20)\d\d){after})"
    nth = "(?:st|nd|rd|th)?"
    yield rf"{before}{d}{nth}(?: of)?[ ,.\-/]*{named}\.?{its_year}"
    yield rf"{before}{named}[ .\-/]*{d}{nth}{its_year}"
    chinese = "".join(_DIGITS[int(digit)] for digit in year)
    years = f"(?:{year}|{chinese}|{chinese.replace('〇', '零')})年"
    yield rf"(?:{years}|(?<![\d年]))(?:{m})月(?:{d})[日号]"
    yield f"(?:{years}|(?<![十年])){_chinese(month)}月{_chinese(day)}[日号]"


def _chinese(number: int) -> str:
    """15: 十五."""
    tens, ones = divmod(number, 10)
    return ("" if tens < 2 else _DIGITS[tens]) + ("十" if tens else "") + (_DIGITS[ones] if ones else "")
