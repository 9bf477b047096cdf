"""The page of files that are read and written."""

from data_tools.convert.earlier import RULES as EARLIER
from data_tools.convert.headings import HEADINGS
from docs.markdown import MADE, table
from docs.words import Words
from vglm_train.checkpoint.bundle import format as bundle_format
from vglm_train.checkpoint.convert.registry import FORMATS as WEIGHTS
from vglm_train.checkpoint.convert.registry import WRITTEN
from vglm_train.config.metric_names import MEANING
from vglm_train.data.tables.fields import KNOWN
from vglm_train.data.tables.readers import ENDINGS
from vglm_train.data.tables.readers import FORMATS as TABLES
from vglm_train.image.decode import FORMATS as PICTURES
from vglm_train.weights.identify import FORMATS as WHAT


def formats(words: Words) -> str:
    """Tables, pictures, weights, bundles."""
    parts = [f"# {words('Formats')}", MADE, *_tables(words), *_weights(words), f"## {words('Bundles')}"]
    text = words((bundle_format.__doc__ or "").partition("\n\n")[2].strip())
    version = words("A bundle is of version {}.").format(bundle_format.VERSION)
    parts.append(f"{version}\n\n```text\n{text}\n```")
    parts.append(
        words("Names of evaluation metrics have meanings of version {}, which result files note.").format(MEANING)
    )
    return "\n\n".join(parts)


def _tables(words: Words) -> list[str]:
    endings = {name: [end for end, kind in ENDINGS.items() if kind == name] for name in TABLES}
    rows = (
        [
            f"`{name}`",
            words(reader.holds),
            " ".join(endings[name]),
            ", ".join(f"`{each}`" for each in sorted(reader.options)),
        ]
        for name, reader in TABLES.items()
    )
    return [
        f"## {words('Tables')}",
        words("`format` of a source, `--format` of the commands. It is told from the name and the content."),
        table([words(each) for each in ("format", "holds", "endings", "options")], rows),
        f"## {words('Columns')}",
        words("Names that are known. A name is compared in small letters, with _ between words."),
        table([words("what"), words("names")], ([f"`{what}`", ", ".join(names)] for what, names in KNOWN.items())),
        f"## {words('Pictures')}",
        table([words("format"), words("endings")], ([name, " ".join(ends)] for name, ends in PICTURES.items())),
        *_reports(words),
    ]


def _reports(words: Words) -> list[str]:
    headings = ([f"`{part}`", ", ".join(names)] for part, names in HEADINGS.items())
    sentences = ([language, rule.words, rule.example] for language, rules in EARLIER.items() for rule in rules)
    return [
        f"## {words('Headings of reports')}",
        words("What `--report-part` of `convert` knows. `other` is left out."),
        table([words("part"), words("headings")], headings),
        f"## {words('Sentences about an earlier study')}",
        words("What `--earlier` of `convert` finds: the regular expressions are in `data_tools/convert/earlier.py`."),
        table([words("language"), words("words"), words("example")], sentences),
    ]


def _weights(words: Words) -> list[str]:
    rows = (
        [
            f"`{name}`",
            words(what),
            words("with `--config`") if WEIGHTS[name].part else words("yes"),
            words("yes") if name in WRITTEN else words("no"),
        ]
        for name, what in WHAT.items()
        if name != "bundle"
    )
    head = [words("format"), words("is"), words("import"), words("export")]
    return [f"## {words('Weights')}", table(head, rows)]
