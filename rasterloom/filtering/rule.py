"""Keep rule: one SQL expression over columns, evaluated by DuckDB."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from rasterloom import schema
from rasterloom.filtering.scorers.registry import SCORERS
from rasterloom.utils.suggest import closest, did_you_mean

DERIVED = {
    "min_side": "least(width, height)",
    "max_side": "greatest(width, height)",
    "aspect": "width / height",  # above 1 for a wide image
    "area": "width::bigint * height",
    "caption_length": "length(caption)",  # in characters
}
TEXT_ALONE = f"status = 'ok' and width is null and coalesce(task, '{schema.T2I}') <> '{schema.T2I}'"
IMAGE_COLUMNS = [name for name in schema.IMAGES.names if name not in ("image", "thumbnail", "more")]

_FORBIDDEN = {  # classes of DuckDB's syntax tree that are no plain expression of one row
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
}
DEEPEST = 300  # levels of the syntax tree, two to an operator: the functions that walk it are recursive
_TOO_DEEP = "the rule nests too deeply: write long chains with AND and OR, or as a list with IN"
_FOREIGN = {"=>": ">=", "=<": "<=", "&&": "and", "||": "or", "!": "not"}
_NOT_ONE_EXPRESSION = (
    "the rule must be one SQL expression and nothing else, such as: quality > 0.3 and aspect < 3"
)


def check_rule(rule: str, scores: pa.Schema) -> None:
    """Check that a keep rule is one boolean SQL expression.

    It may use the columns of images, those of `scores` that are no lists, `DERIVED`, and DuckDB's functions
    of a row that always give the same result.

    Raises:
        ValueError: in one line; a syntax error with its place, an unknown column with those that exist
    """
    try:
        _check_rule(rule, scores)
    except ValueError as error:
        raise ValueError(f"{error}{_of_other_languages(rule)}") from None


def _check_rule(rule: str, scores: pa.Schema) -> None:
    with connect() as connection:
        tree = _parse(connection, rule)
        _walk(tree, _forbid)
        _walk(tree, _forbid_changing(connection))
        fields = [f for f in scores if not pa.types.is_list(f.type)]
        given = [f.name for f in fields]
        fields += [schema.IMAGES.field(name) for name in IMAGE_COLUMNS]
        _check_columns(_columns(tree), [*given, *DERIVED, *IMAGE_COLUMNS])
        row_of_nulls = pa.table([pa.nulls(1, field.type) for field in fields], schema=pa.schema(fields))
        connection.register("nulls", row_of_nulls)
        try:
            source = f"from ({with_derived('nulls')})"
            connection.execute(f"select 1 {source} where (\n{rule}\n)")  # refuses aggregates
            described = connection.execute(f"describe select (\n{rule}\n) {source}").fetchall()
        except duckdb.Error as error:
            raise ValueError(f"the rule cannot be used: {first_line(error)}") from None
    if described[0][1] not in ("BOOLEAN", '"NULL"'):
        raise ValueError(f"the rule gives {described[0][1]}, not true or false: compare it with something")


def connect() -> duckdb.DuckDBPyConnection:
    """Open a DuckDB in memory that reaches neither files nor the network."""
    return duckdb.connect(
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "lock_configuration": "true",
        }
    )


def conjuncts_of(connection: duckdb.DuckDBPyConnection, rule: str) -> list[str]:
    """Cut a rule at its top-level ANDs, as the user's text.

    The cut is checked: put together again, the parts must parse to the tree of the rule. Where they do not,
    as in "a or b and c", the rule is one part.
    """
    parts = _split(rule)
    whole = " and ".join(f"(\n{part}\n)" for part in parts)
    again = _serialize(connection, whole)
    if again["error"] or _flat(_parse(connection, whole)) != _flat(_parse(connection, rule)):
        parts = [rule.strip()]
    return parts


def passes(part: str) -> str:
    """Return SQL that tells whether a row passes a rule's part: what cannot say (null) counts as no.

    Of a sample without an image it counts as yes: what is asked of images is not asked of text.
    """
    return f"coalesce((\n{part}\n)::boolean, {TEXT_ALONE})"


def verdict_of(conjuncts: Sequence[str]) -> str:
    """Return SQL for a row's verdict: 0 if it passes, n where the n-th part stops it, -1 if it failed."""
    cases = [f"when not {passes(part)} then {number}" for number, part in enumerate(conjuncts, 1)]
    return f"(case when status is distinct from 'ok' then -1 {' '.join(cases)} else 0 end)::smallint"


def with_derived(table: str, columns: Sequence[str] = IMAGE_COLUMNS) -> str:
    """Return a query for a table's columns and its possible `DERIVED` ones."""
    derived = [f"{sql} as {name}" for name, sql in DERIVED.items() if name != "caption_length"]
    if "caption" in columns:
        derived.append(f"{DERIVED['caption_length']} as caption_length")
    return f"select *, {', '.join(derived)} from {table}"


def columns_of(rule: str) -> list[str]:
    """Return the names of the columns that a rule speaks of."""
    with connect() as connection:
        return _columns(_parse(connection, rule))


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _parse(connection: duckdb.DuckDBPyConnection, rule: str) -> Any:
    """Return DuckDB's syntax tree of a rule, without places.

    Raises:
        ValueError: it is not one expression and nothing else
    """
    result = _serialize(connection, rule)
    if result["error"] and "position" in result:
        place = int(result["position"]) - len("SELECT ")  # in bytes
        before = rule.encode()[:place].decode(errors="replace")
        rest = rule[len(before) :].rstrip()
        where = f"at character {len(before) + 1}, {rest[:20]!r}" if rest else "at its end"
        raise ValueError(f"the rule has a syntax error {where}: {result['error_message']}")
    if result["error"]:
        raise ValueError(_NOT_ONE_EXPRESSION)
    node = _without_places(result["statements"][0]["node"])
    plain = _without_places(_serialize(connection, "true")["statements"][0]["node"])
    expressions = node.pop("select_list", ())  # none in a UNION and its like, which are nodes of their own
    plain.pop("select_list")
    alone = len(result["statements"]) == 1 and len(expressions) == 1 and node == plain
    if not alone or expressions[0].get("alias"):
        raise ValueError(_NOT_ONE_EXPRESSION)
    return expressions[0]


def _serialize(connection: duckdb.DuckDBPyConnection, expression: str) -> Any:
    query = "select json_serialize_sql(?::varchar)"
    try:
        tree = json.loads(connection.execute(query, [f"SELECT {expression}"]).fetchall()[0][0])
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except duckdb.Error as error:  # a character that is not Unicode
        raise ValueError(f"the rule cannot be used: {first_line(error)}") from None
    level = [tree]
    for _ in range(DEEPEST):
        level = [inner for node in level for inner in (node.values() if isinstance(node, dict) else node)]
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return tree
    raise ValueError(_TOO_DEEP)


def _without_places(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_places(v) for k, v in tree.items() if not k.startswith("query_location")}
    return [_without_places(item) for item in tree] if isinstance(tree, list) else tree


def _walk(tree: Any, visit: Callable[[dict[str, Any]], None]) -> None:
    if isinstance(tree, dict):
        visit(tree)
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            _walk(item, visit)


def _forbid(node: dict[str, Any]) -> None:
    if node.get("class") in _FORBIDDEN:
        what = _FORBIDDEN[node["class"]]
        raise ValueError(f"the rule is judged for each image by itself: it cannot hold {what}")


def _forbid_changing(connection: duckdb.DuckDBPyConnection) -> Callable[[dict[str, Any]], None]:
    query = "select distinct function_name from duckdb_functions() where stability <> 'CONSISTENT'"
    changing = {name for (name,) in connection.execute(query).fetchall()}

    def visit(node: dict[str, Any]) -> None:
        if node.get("class") == "FUNCTION" and node.get("function_name") in changing:
            raise ValueError(
                "the rule must give the same result each time: it cannot hold "
                f"{node['function_name']}(). For a share of the images: hash(key) % 100 < 5"
            )

    return visit


def _columns(tree: Any) -> list[str]:
    found: list[str] = []

    def visit(node: dict[str, Any]) -> None:
        if node.get("class") == "COLUMN_REF":
            found.append(".".join(node["column_names"]))

    _walk(tree, visit)
    return found


def _of_other_languages(rule: str) -> str:
    """The end of a message about a rule: SQL's words for what other languages write."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", rule).replace("!=", "")
    meant = [f"{sql} in place of {sign}" for sign, sql in _FOREIGN.items() if sign in bare]
    return f"; did you mean {', '.join(meant)}?" if meant else ""


def _check_columns(names: list[str], known: Sequence[str]) -> None:
    for name in names:
        if name.lower() not in known:
            hint = f"add {name} to the scores? " if name in SCORERS else ""
            if not hint and not closest(name, known):
                hint = f"if it is a text, write '{name}'; "
            raise ValueError(
                f"the rule names {name!r}, which is no column; {hint}{did_you_mean(name, known)}"
            )


def _split(rule: str) -> list[str]:
    """Cut at each AND outside of parentheses, CASE and BETWEEN."""
    tokens = duckdb.tokenize(rule)
    text = rule.encode()  # DuckDB counts bytes
    ends = [place for place, _ in tokens[1:]] + [len(text)]
    depth, betweens, start, cuts = 0, 0, 0, []
    for (place, kind), end in zip(tokens, ends, strict=True):
        word = "" if kind == duckdb.token_type.string_const else text[place:end].decode().strip().lower()
        if word in ("(", "[", "{", "case"):
            depth += 1
        elif word in (")", "]", "}", "end"):
            depth -= 1
        elif depth == 0 and word == "between":
            betweens += 1
        elif depth == 0 and word == "and" and betweens:
            betweens -= 1
        elif depth == 0 and word == "and":
            cuts.append((start, place))
            start = place + len("and")
    return [text[a:b].decode().strip() for a, b in [*cuts, (start, len(text))]]


def _flat(tree: Any) -> list[Any]:
    if tree.get("type") == "CONJUNCTION_AND":
        return [leaf for child in tree["children"] for leaf in _flat(child)]
    return [tree]
