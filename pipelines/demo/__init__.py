"""Demo of all steps on real data in minutes: scikit-learn's digits, one teacher, three students, one page."""
