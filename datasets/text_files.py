"""Text files as editors save them: in UTF-8 or UTF-16, with a byte-order mark or without."""

import codecs

from datasets.stores import AnyPath
from reproduce.base.errors import UserError

_MARKS = (
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


def read_text(path: AnyPath) -> str:
    """Return the text of a file, in the encoding that its byte-order mark says, else in UTF-8.

    Raises:
        UserError: if it cannot be read, or is no text in that encoding.
    """
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in _MARKS if content.startswith(mark)), 'utf-8')
        text = content.decode(encoding)
        if '\0' in text:
            raise ValueError('it holds zero bytes')
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        raise UserError(f'{path} is no text ({error}): save it in UTF-8.') from error
    return text
