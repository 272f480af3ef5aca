import logging

import tensorflow as tf

from embedsvc.models.quiet import only_warnings


def test_only_warnings_of_tensorflow_are_told_and_its_level_is_put_back():
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logger = tf.get_logger()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)  # as in a notebook
    try:
        with only_warnings():
            logger.info("Assets written to: /tmp/model")
            logger.warning("something to act on")
        assert logger.level == logging.INFO
        assert told == ["something to act on"]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
