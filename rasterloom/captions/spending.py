"""Tokens and dollars of a captioner, and its budget."""

from dataclasses import dataclass

from rasterloom.captions.answers import Answer
from rasterloom.recipe.captions import Endpoint

MILLION = 1_000_000


@dataclass
class Spending:
    """Spending of one captioner, in this process and before."""

    config: Endpoint
    tokens: int = 0
    usd: float = 0.0
    _answers: int = 0  # of this process; so the next two
    _tokens_here: int = 0
    _usd_here: float = 0.0
    _under_way: int = 0

    def begin_with(self, tokens: int, usd: float) -> None:
        """Count in the spending of finished shards, once."""
        self.tokens, self.usd = max(self.tokens, tokens), max(self.usd, usd)

    def has_room(self) -> bool:
        """True if the budget lasts for one more request.

        It and those under way are taken to be as dear as those before.
        """
        more = (self._under_way + 1) / max(1, self._answers)
        budgets = (
            (self.config.budget_usd, self.usd, self._usd_here),
            (self.config.budget_tokens, self.tokens, self._tokens_here),
        )
        return all(
            most is None or (spent < most and spent + here * more <= most) for most, spent, here in budgets
        )

    def begin(self) -> None:
        """Count a request as under way."""
        self._under_way += 1

    def end(self, answer: Answer | None) -> float:
        """Count an answer, or that there was none. Return its price."""
        self._under_way -= 1
        if answer is None:
            return 0.0
        price = price_of(self.config, answer.tokens_in, answer.tokens_out)
        tokens = answer.tokens_in + answer.tokens_out
        self._answers += 1
        self.tokens, self._tokens_here = self.tokens + tokens, self._tokens_here + tokens
        self.usd, self._usd_here = self.usd + price, self._usd_here + price
        return price

    def text(self) -> str:
        """Sum of what is spent, for a message."""
        dollars = f", {self.usd:.2f} USD" if self.config.usd_in or self.config.usd_out else ""
        return f"{self.tokens:,} tokens{dollars}"


def price_of(config: Endpoint | None, tokens_in: int, tokens_out: int) -> float:
    """Dollars of some tokens; 0 where there is no price."""
    return (tokens_in * config.usd_in + tokens_out * config.usd_out) / MILLION if config else 0.0
