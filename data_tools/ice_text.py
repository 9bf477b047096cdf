"""The former name of data_tools.chatglm_tokenizer."""

from data_tools.common.cli import renamed

if __name__ == "__main__":
    renamed("data_tools.ice_text", "data_tools.chatglm_tokenizer")
