WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
TEXTS = [" ".join(WORDS[i % 3 : i + 1]) for i in range(10)]  # of many lengths
